"""What a run has done and what it has to do: the records of its cells, each written whole and at once.

Stages write through it, so that a stage that fails is noted in its cell's record and never stops the
others. Only an output that cannot be written, or an interruption, ends the run.
"""

from __future__ import annotations

import traceback
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from threading import get_ident
from typing import Any

from bench.names import file_name
from bench.records import Failure, Record
from bench.run.costs import Costs
from bench.run.executors import Executor, Job, Local, Outcome
from bench.run.host import disk, environment, interrupts
from bench.run.host.environment import Machine
from bench.run.host.leftovers import discard
from bench.run.progress import Progress
from bench.run.resume import NOTHING, Retry, hash_attempt, judge, list_stages_due, recall_record
from bench.serving import ServingError
from bench.store import Store
from bench.suite.matrix import Cell, Plan
from bench.suite.suite import ModelSpec
from replaceme.errors import InputError, OutputError, told
from replaceme.io import loading
from replaceme.report import Report, no_report

Stage = tuple[Cell, str]  # of a cell, by its name


class Ledger:
    """The records of a plan in a result folder, whose lock is held.

    Attributes:
        records: of every cell, as far as it is known.
        machine: where jobs are done.
        reopened: models of which scores turned out to be of other requests, and are to be made again.
    """

    def __init__(
        self, plan: Plan, out: Path, retry: Retry = NOTHING, executor: Executor | None = None
    ) -> None:
        """Read what is recorded.

        Args:
            retry: what is done again, and left alone otherwise.
            executor: that does the jobs of the stages; ``None``: this process.

        Raises:
            InputError: a record cannot be read.
        """
        self.out, self.store = out, Store(out)
        self.executor: Executor = executor or Local()
        self.device = plan.suite.device or self.executor.device or loading.default_device()
        self.machine = self._find_machine()
        self.plan = replace(plan, served_on=self.machine.served_on)
        self.records = {cell: recall_record(cell, self.plan, self.store, retry) for cell in plan.cells}
        self.memory = plan.suite.memory_bytes
        self.reopened: dict[ModelSpec, None] = {}
        self.progress = Progress(Costs(self.plan, self.list_due, out), self.executor.workers)

    def list_due(self, cell: Cell) -> list[str]:
        """Names of the stages that are still to do for a cell."""
        return list_stages_due(self.records[cell], self.plan)

    def count_due(self) -> int:
        """Number of stages that are still to do for all cells."""
        return sum(len(self.list_due(cell)) for cell in self.records)

    def run(self, jobs: Sequence[Job], report: Report = no_report) -> Iterator[tuple[int, Outcome]]:
        """Have jobs done; their outcomes as they come, each with the number of its job.

        Args:
            report: told which share of all of them is done.
        """
        shares, ended = [0.0] * len(jobs), set[int]()
        together: dict[str, list[int]] = {}  # the jobs of a title
        for number, job in enumerate(jobs):
            together.setdefault(job.title or "", []).append(number)
        lanes: dict[str, Hashable] = {}  # of the titles that have begun

        def tell(number: int, share: float | None) -> None:
            job, shares[number] = jobs[number], 1.0 if share is None else share
            ended.update([number] if share is None else [])
            report(sum(shares) / len(jobs))
            if not job.title:
                return
            alike = together[job.title]
            if job.title not in lanes:
                self.progress.rest()
                lanes[job.title] = get_ident(), job.title
                self.progress.step(job.title, job.cost, lanes[job.title])
            elif ended.issuperset(alike):
                self.progress.rest(lanes[job.title])
            else:
                self.progress.share(fmean(shares[n] for n in alike), lanes[job.title])

        try:
            yield from self.executor.run(jobs, tell)
        finally:
            for lane in lanes.values():
                self.progress.rest(lane)

    def do(self, job: Job) -> Any:
        """The result of a job that has one.

        Raises:
            Exception: the error that ended it.
        """
        ((_, outcome),) = self.run([job])
        return outcome.get()

    @contextmanager
    def stage(self, cell: Cell, name: str) -> Iterator[Record]:
        """Do a stage of a cell; its record, which is the value, is written with what came of it."""
        record = self.records[cell]
        with self.guard([(cell, name)]):
            yield record
            record.failures = [failure for failure in record.failures if failure.stage != name]
            self._write(cell)
            self.progress.count(1)

    @contextmanager
    def guard(self, stages: Iterable[Stage]) -> Iterator[None]:
        """Do what several stages need: an error is theirs, and the run goes on behind the context.

        Args:
            stages: read only when they fail; a generator may then tell which are still to do.

        Raises:
            OutputError: an output cannot be written.
        """
        try:
            yield
        except OutputError:
            raise
        except Exception as error:
            for cell, name in stages:
                self.fail(cell, name, error)

    def fail(self, cell: Cell, name: str, error: Exception) -> None:
        """Record that a stage failed.

        Raises:
            OutputError: it failed because a disk is full.
            KeyboardInterrupt: because the run was interrupted.
        """
        interrupts.raise_pending()
        if full := disk.describe_full(error):
            raise OutputError(f"{cell.name}, {name}: {full}; free some space and run again.") from error
        expected = isinstance(error, InputError | ServingError)
        text = environment.mask_secrets(str(error).strip() if expected else told(error))
        trace = None
        if not expected or error.__cause__:
            trace = environment.mask_secrets("".join(traceback.format_exception(error)[-6:]))
        record = self.records[cell]
        record.failures = [failure for failure in record.failures if failure.stage != name]
        attempt = hash_attempt(cell, name, self.plan)
        record.failures.append(Failure(stage=name, error=text, traceback=trace, attempt=attempt))
        self._write(cell)
        self.progress.relist()
        self.progress.say(f"failed: {cell.name}, {name}: {text.splitlines()[0]}")
        self.progress.count(1)

    def forget(self, cell: Cell) -> None:
        """Drop everything that is known of a cell, and what was answered for it."""
        record = self.records[cell]
        record.prune = record.heal = record.serving = None
        record.quality, record.failures = {}, []
        discard(self.answers_file(cell))
        discard(self.texts_file(cell))
        self._write(cell)

    def write_changed(self) -> None:
        """Write the records that the suite calls something else than they are on the disk."""
        for cell, record in self.records.items():
            if self.store.read(cell.stem) not in (None, record):
                self.store.write(cell.stem, record)

    def answers_file(self, cell: Cell) -> Path:
        """Where the answers of a cell's model lie until all its tasks are scored."""
        model = f"{file_name(cell.model.name)}-{cell.identity.model.digest[:8]}"
        return self.out / "answers" / f"{model}.jsonl"

    def texts_file(self, cell: Cell) -> Path:
        """Where the texts that a cell's model wrote lie until all its tasks are scored."""
        return self.answers_file(cell).with_suffix(".texts.jsonl")

    def _find_machine(self) -> Machine:
        job = Job(Machine.here, (self.device,))
        ((_, outcome),) = self.executor.run([job], lambda *_: None)
        found: Machine = outcome.get()
        return found

    def _write(self, cell: Cell) -> None:
        suite, record = self.plan.suite, self.records[cell]
        record.status = judge(record, self.plan)
        record.environment = environment.describe(self.machine)
        record.updated = datetime.now(UTC).isoformat(timespec="seconds")
        record.runtime = {
            "device": self.device,
            "calibration_batch_size": suite.prune.batch_size,
            "score_batch_size": suite.score.batch_size if suite.score else None,
        }
        self.store.write(cell.stem, record)
