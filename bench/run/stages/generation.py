"""Texts that tasks ask for: vLLM writes them, in one engine for all variants of a shape."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.run.costs import writing_of
from bench.run.executors import Held, Job
from bench.run.ledger import Stage
from bench.run.stages.scores import Scores
from bench.serving import (
    EngineMissingError,
    ServingError,
    Workers,
    engine_version,
)
from bench.suite.matrix import Cell
from bench.tasks.planned import PlannedTask, stage_of
from replaceme.recipe import digest

if TYPE_CHECKING:
    from bench.scoring.generation.job import Variant
    from bench.scoring.generation.launch import Outcome
    from bench.scoring.generation.texts import Entry, Texts
    from bench.scoring.tasks import PreparedTask
    from bench.scoring.unloaded import UnloadedScorer
    from replaceme.report import Report

Asking = dict[PlannedTask, "PreparedTask"]


class GenerationScoring:
    """Has the cells of one model write what tasks ask for; scores tasks that ask for nothing else."""

    def __init__(self, scores: Scores) -> None:
        self.scores, self.ledger = scores, scores.ledger

    def write(self, tasks: list[PlannedTask]) -> dict[PlannedTask, str]:
        """Have the texts written that tasks ask for; returns the tasks whose texts transformers is to
        write, with the reason."""
        asking = dict(self._list_asking(tasks))
        if not asking:
            return {}
        chosen = self.scores.settings.generate
        if chosen == "transformers":
            return self._leave(asking, "score.generate is transformers")
        try:
            if engine_version() is None:
                raise EngineMissingError
            self._write_all(asking)
        except ServingError as error:
            if chosen is None:
                return self._leave(asking, f"vLLM did not write its texts: {error.reason}")
            for cell, stage in [*self.scores.lacking_stages([*asking])]:
                self.ledger.fail(cell, stage, error)
        for task, prepared in asking.items():
            if prepared.kinds == {"generate_until"}:
                self._score(task, prepared)
        return {}

    def _leave(self, asking: Asking, reason: str) -> dict[PlannedTask, str]:
        """Have transformers write."""
        self.ledger.progress.say(f"{self.scores.model.name}: {reason}.")
        for task in asking:
            self.ledger.progress.learn_obstacle(self.scores.model, task)
        return dict.fromkeys(asking, reason)

    def _list_asking(self, tasks: list[PlannedTask]) -> Iterator[tuple[PlannedTask, PreparedTask]]:
        """The tasks that ask a model to write, with their requests; those that cannot be built fail."""
        for task in tasks:
            with self.ledger.guard(self.scores.lacking_stages([task])):
                prepared = self.scores.prepare(task, self._find_template(task))
                if "generate_until" in prepared.kinds:
                    yield task, prepared

    def _find_template(self, task: PlannedTask) -> UnloadedScorer | None:
        """What puts prompts into the model's chat template, if a task wants that."""
        return self.scores.unloaded if task.spec.apply_chat_template else None

    def _write_all(self, asking: Asking) -> None:
        """Have all cells write all texts that are not kept from an interrupted run.

        Raises:
            ServingError: no engine starts on the first shape.
        """
        from bench.scoring.generation.launch import Outcome
        from bench.scoring.generation.texts import Texts

        device = self.ledger.machine.served_on
        scope = {"dtype": self.scores.dtype, "engine": engine_version(), "device": device}
        texts, outcome = Texts(self.ledger.texts_file(self.scores.cells[0]), scope), Outcome()
        with tempfile.TemporaryDirectory(prefix="requests-", dir=texts.path.parent) as folder:
            files = {task: _write_requests(asking[task], Path(folder)) for task in asking}
            shapes = [*self._list_shapes([*asking])]
            asked = [(cells, self._ask(cells, asking, files, texts)) for cells in shapes]
            asked = [(cells, variants) for cells, variants in asked if variants]
            kept = texts.path.absolute(), scope
            jobs = [self._job(*one, *kept, started=number > 0) for number, one in enumerate(asked)]
            try:
                for number, found in self.ledger.run(jobs):
                    if isinstance(found.error, ServingError):
                        raise found.error
                    with self.ledger.guard(self._lacking(asked[number][0], asking)):
                        entries = found.get()
                        texts.keep(entries)
                        outcome.take(entries)
            finally:
                self.ledger.executor.let_go()
        for cells in shapes:
            self._tell_failures(cells, asking, outcome)
        self.scores.texts, self.scores.outcome = texts, outcome

    def _list_shapes(self, tasks: list[PlannedTask]) -> Iterator[list[Cell]]:
        """The cells with something to write, those together whose checkpoints differ in values alone."""
        shapes: dict[str, list[Cell]] = {}
        for cell in dict.fromkeys(cell for cell, _ in self.scores.lacking_stages(tasks)):
            with self.ledger.guard([(cell, stage_of(task)) for task in tasks]):
                shape = self.scores.checkpoints.hash_shape(cell, self.scores.source)
                shapes.setdefault(shape, []).append(cell)
        yield from shapes.values()

    def _lacking(self, cells: list[Cell], asking: Asking) -> Iterator[Stage]:
        """The stages of some cells that wait for texts."""
        return ((cell, stage) for cell, stage in self.scores.lacking_stages([*asking]) if cell in cells)

    def _job(
        self, cells: list[Cell], variants: list[Variant], kept: Path, scope: Any, started: bool
    ) -> Job:
        """What has a shape write.

        Args:
            kept: file of the texts.
            scope: of that file.
            started: an engine is known to start on the model.
        """
        from bench.scoring.generation.launch import WORKER

        more = f" and {len(cells) - 1} more of its shape" if len(cells) > 1 else ""
        settings = {
            "started": started,
            "dtype": self.scores.dtype,
            "trust_remote_code": self.scores.model.trust_remote_code,
        }
        logs = self.ledger.out.absolute() / "logs"
        title = f"{cells[0].name}{more}: writing with vLLM"
        engines = Held(Workers, (WORKER,))
        what, cost = (variants, kept, scope, logs, settings), writing_of(cells[0])
        return Job(write_texts, what, engines, title, cost, resumes=True)

    def _tell_failures(self, cells: list[Cell], asking: Asking, outcome: Outcome) -> None:
        for cell in cells:
            for task, prepared in asking.items():
                asked = (cell.stem, prepared.requests)
                if asked in outcome.nan:
                    self.ledger.fail(cell, stage_of(task), self.scores.refuse_nan())
                elif reason := outcome.errors.get(asked):
                    self.ledger.fail(cell, stage_of(task), ServingError(reason))

    def _ask(
        self, cells: list[Cell], asking: Asking, files: dict[PlannedTask, Path], texts: Texts
    ) -> list[Variant]:
        """The cells' checkpoints that have still to write, and what."""
        from bench.scoring.generation.job import Asked, Variant

        variants = []
        for cell in cells:
            asked = []
            for task, prepared in asking.items():
                if cell not in self.scores.list_lacking(task):
                    continue
                count, requests = len(prepared.texts_asked), prepared.requests
                lacking = texts.list_lacking(cell.stem, requests, count)
                if prepared.samples and lacking:  # a draw depends on all those before it
                    lacking = [*range(count)]
                if lacking:
                    sampled, file = prepared.samples, files[task]
                    asked.append(Asked(requests=requests, file=file, lacking=lacking, sampled=sampled))
            if asked:
                folder = self.scores.checkpoints.provide(cell, self.scores.source).resolve()
                variants.append(Variant(stem=cell.stem, folder=folder, asked=asked))
        return variants

    def _score(self, task: PlannedTask, prepared: PreparedTask) -> None:
        """Score a task that asks for texts alone on all cells that have them."""
        for cell in self.scores.list_lacking(task):
            with self.ledger.stage(cell, stage_of(task)):
                texts = self.scores.read_texts(cell, prepared)
                assert texts is not None
                score = self.scores.unloaded.score(prepared, texts)
                generation = self.scores.describe_texts(cell, prepared, texts)
                self.scores.record(cell, task, prepared, score, method="texts", generation=generation)


def _write_requests(prepared: PreparedTask, folder: Path) -> Path:
    from bench.scoring.generation.job import write_requests

    path = (folder / f"{digest({'asked': prepared.requests})}.jsonl").resolve()
    write_requests(path, prepared.texts_asked)
    return path


# ---- what is done by whoever has the engine


def write_texts(
    workers: Workers,
    variants: list[Variant],
    kept: Path,
    scope: dict[str, str | None],
    logs: Path,
    settings: dict[str, Any],
    report: Report,
) -> Iterator[list[Entry]]:
    """Have variants of one shape write; yields texts and what is told of the engine, as they come.

    Args:
        kept: file with texts that came before, and are not written again.
        scope: of that file.
        settings: of :class:`bench.scoring.generation.launch.Engines`.

    Raises:
        ServingError: no engine could be started.
    """
    from bench.scoring.generation.launch import Engines
    from bench.scoring.generation.texts import read_kept

    engines = Engines(workers, logs, report, **settings)
    yield from engines.answer(variants, read_kept(kept, scope))
