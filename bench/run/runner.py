"""Plan → records: prune, score and serve what is not recorded yet, one record per cell.

A stage that fails is noted in its cell's record, and never stops the others. Only an output that cannot
be written ends the run.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.records import Failure
from bench.run.checkpoints import Checkpoints
from bench.run.host import disk, environment, interrupts
from bench.run.host.leftovers import discard
from bench.run.resume import attempt_hash, known, stages_due, status
from bench.run.stages.prune import PruneStage
from bench.run.stages.score import ScoreStage, answers_file
from bench.run.stages.serve import ServeStage
from bench.serving import ServingError
from bench.store import Store
from bench.suite.matrix import Cell, Plan
from bench.suite.suite import ModelSpec
from bench.tasks.planned import Task
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError, OutputError, told
from replaceme.io import loading, matching, models

if TYPE_CHECKING:
    from bench.scoring.tasks import PreparedTask


@dataclass(frozen=True)
class Events:
    """How a run tells what it does."""

    step: Callable[[str], None]
    done: Callable[[int], None]
    say: Callable[[str], None]
    share: Callable[[float], None]


SILENT = Events(*[lambda _: None] * 4)


class Run:
    """One run of a plan into a result folder, whose lock is held.

    Attributes:
        records: of every cell, as far as it is known.
        outdated: models of which scores turned out to be of other requests.
    """

    def __init__(self, plan: Plan, out: Path, retry_failed: bool = False) -> None:
        self.plan, self.out, self.events = plan, out, SILENT
        self.store = Store(out)
        self.checkpoints = Checkpoints(out, plan.suite.keep_checkpoints)
        self.records = {cell: known(cell, plan, self.store, retry_failed) for cell in plan.cells}
        self.device = plan.suite.device or loading.default_device()
        self.prepared: dict[Task, PreparedTask] = {}
        self.outdated: dict[ModelSpec, None] = {}

    def due(self, cell: Cell) -> list[str]:
        """Names of the stages that are still to do for a cell."""
        return stages_due(self.records[cell], self.plan)

    @property
    def steps(self) -> int:
        """Number of stages that this run will do."""
        return sum(len(self.due(cell)) for cell in self.records)

    def check_models(self) -> None:
        """Refuse models on this machine that transformers would fill up with random numbers.

        Raises:
            InputError: naming the tensors.
        """
        for model in self.plan.suite.models:
            folder = models.known_folder(model.id)
            if folder and any(self.due(cell) for cell in self.plan.cells if cell.model == model):
                matching.check_complete(folder, model.id, model.trust_remote_code)

    def execute(self, events: Events = SILENT) -> None:
        """Do everything that is left.

        Raises:
            OutputError: the result folder cannot be written.
        """
        self.events = events
        for cell, record in self.records.items():
            if self.store.read(cell.stem) not in (None, record):
                self.store.write(cell.stem, record)
        for model in self.plan.suite.models:
            self._whole(model)
        for model in [*self.outdated]:
            self._whole(model)

    def _whole(self, model: ModelSpec) -> None:
        cells = [cell for cell in self.plan.cells if cell.model == model]
        if any(self.due(cell) for cell in cells):
            self._model(model, cells)
        self._tidy(cells)

    def _model(self, model: ModelSpec, cells: list[Cell]) -> None:
        if (source := self.make(model, cells)) is None:
            return
        made = [cell for cell in cells if self.records[cell].prune]
        if made and self.plan.suite.score:
            ScoreStage(self, source, made).execute()
        ServeStage(self, source, made).execute()

    def _tidy(self, cells: list[Cell]) -> None:
        """Remove what the cells of one model need no more."""
        self.checkpoints.tidy({cell: self.records[cell] for cell in cells})
        if cells and not any(stage.startswith("score") for cell in cells for stage in self.due(cell)):
            discard(answers_file(self.out, cells[0]))

    def make(self, model: ModelSpec, cells: list[Cell]) -> Path | None:
        """Prune what is not pruned; returns the folder of the model if it was found."""
        self.events.step(f"{model.name}: locating the model")
        try:
            source = Checkpoint.open(model.id, model.revision, model.trust_remote_code)
        except OutputError:
            raise
        except Exception as error:
            for cell in cells:
                if due := self.due(cell):
                    self.fail(cell, due[0], error)
            return None
        PruneStage(self, model, source, cells).execute()
        return source.folder

    # ---- records

    def attempt(self, cell: Cell, stage: str, work: Callable[[], None]) -> None:
        """Do a stage of a cell and record what came of it."""
        record = self.records[cell]
        try:
            work()
        except OutputError:
            raise
        except Exception as error:
            self.fail(cell, stage, error)
            return
        record.failures = [failure for failure in record.failures if failure.stage != stage]
        self._save(cell)
        self.events.done(1)

    def fail(self, cell: Cell, stage: str, error: Exception) -> None:
        """Record that a stage failed.

        Raises:
            OutputError: it failed because a disk is full.
            KeyboardInterrupt: because the run was interrupted.
        """
        interrupts.check()
        if full := disk.full(error):
            raise OutputError(f"{cell.name}, {stage}: {full}; free some space and run again.") from error
        known = isinstance(error, InputError | ServingError)
        text = environment.without_secrets(str(error).strip() if known else told(error))
        trace = (
            None if known and not error.__cause__ else "".join(traceback.format_exception(error)[-6:])
        )
        record = self.records[cell]
        record.failures = [failure for failure in record.failures if failure.stage != stage]
        record.failures.append(
            Failure(
                stage=stage,
                error=text,
                traceback=trace and environment.without_secrets(trace),
                attempt=attempt_hash(cell, stage, self.plan),
            )
        )
        self._save(cell)
        self.events.say(f"failed: {cell.name}, {stage}: {text.splitlines()[0]}")
        self.events.done(1)

    def forget(self, cell: Cell) -> None:
        """Drop everything that is known of a cell, and what was answered for it."""
        record = self.records[cell]
        record.prune, record.quality, record.serving, record.failures = None, {}, None, []
        discard(answers_file(self.out, cell))
        self._save(cell)

    def _save(self, cell: Cell) -> None:
        record = self.records[cell]
        record.status = status(record, self.plan)
        record.environment = environment.describe()
        record.updated = datetime.now(UTC).isoformat(timespec="seconds")
        record.runtime = {
            "device": self.device,
            "calibration_batch_size": self.plan.suite.prune.batch_size,
            "score_batch_size": self.plan.suite.score.batch_size if self.plan.suite.score else None,
        }
        self.store.write(cell.stem, record)
