"""Plan → records: prune, score and serve what is not recorded yet, one record per cell.

A stage that fails is noted in its cell's record and tried again by the next run; it never stops the
others. Only an output that cannot be written ends the run.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import environment, records
from bench.matrix import Cell, Plan, Task, serving_identity
from bench.records import Failure, Record, Store
from bench.resume import serving_left, stages_left
from bench.score_stage import ScoreStage
from bench.scoring.metrics import primary_metric
from bench.serving import ServingError, measure
from bench.suite import ModelSpec
from bench.variants import architecture_in, calibrated, check_variant, fitted
from replaceme import models, tensorfile
from replaceme.editfile import save_edit
from replaceme.errors import InputError, OutputError
from replaceme.provenance import choice_line, listed

if TYPE_CHECKING:
    from bench.scoring.tasks import PreparedTask
    from replaceme.architectures import Architecture
    from replaceme.pruning import Calibration


@dataclass(frozen=True)
class Events:
    """How a run tells what it does."""

    step: Callable[[str], None]
    done: Callable[[int], None]
    say: Callable[[str], None]
    share: Callable[[float], None]


SILENT = Events(*[lambda _: None] * 4)


class Run:
    """One run of a plan into a result folder."""

    def __init__(self, plan: Plan, out: Path) -> None:
        self.plan, self.out, self.events = plan, out, SILENT
        self.store = Store(out)
        self.records = {cell: self._known(cell) for cell in plan.cells}
        self.device = plan.suite.device or models.default_device()
        self.prepared: dict[Task, PreparedTask] = {}
        self.failed: set[tuple[Cell, str]] = set()

    def _known(self, cell: Cell) -> Record:
        record = self.store.read(cell.stem)
        if record is None:
            return Record(
                model=cell.model.name,
                model_id=cell.model.id,
                layers=cell.layers,
                label=cell.label,
                identity=cell.identity,
            )
        record.label, record.model = cell.label, cell.model.name
        for task in self.plan.tasks:
            if (known := record.quality.get(task.spec.task)) and known.identity == task.identity:
                known.primary = primary_metric(task.spec, known.metrics)
                known.average = task.spec.average
        return record

    @property
    def steps(self) -> int:
        """Number of stages that this run will do."""
        return sum(len(stages_left(record, self.plan)) for record in self.records.values())

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
            cells = [cell for cell in self.plan.cells if cell.model == model]
            if any(stages_left(self.records[cell], self.plan) for cell in cells):
                self._model(model, cells)

    def _model(self, model: ModelSpec, cells: list[Cell]) -> None:
        if (source := self.make(model, cells)) is None:
            return
        made = [cell for cell in cells if self.records[cell].prune]
        if made and self.plan.suite.score:
            ScoreStage(self, source, made).execute()
        for cell in made:
            self._serve(cell, source)
        for cell in cells:
            self._finish(cell)

    def make(self, model: ModelSpec, cells: list[Cell]) -> Path | None:
        """Make the checkpoints that are missing; returns the folder of the model if it was found."""
        self.events.step(f"{model.name}: locating the model")
        try:
            source = models.locate(model.id, model.revision, model.trust_remote_code)
            architecture = architecture_in(source, model.id)
        except OutputError:
            raise
        except Exception as error:
            for cell in cells:
                self.fail(cell, "prune", error)
            return None
        missing = [cell for cell in cells if self._needs_checkpoint(cell)]
        if pruned := [cell for cell in missing if cell.solver]:
            self._prune(model, source, architecture, pruned)
        for cell in missing:
            if not cell.solver:
                self.attempt(cell, "prune", partial(self._baseline, cell, source))
        return source

    # ---- prune

    def checkpoint(self, cell: Cell, source: Path) -> Path:
        """Folder of the cell's checkpoint; the baseline's is the source itself unless it is cast."""
        dtype = cell.model.dtype
        if cell.solver is None and dtype in (None, models.checkpoint_dtype(models.read_config(source))):
            return source
        return self.out / "checkpoints" / cell.stem

    def _needs_checkpoint(self, cell: Cell) -> bool:
        record = self.records[cell]
        left = stages_left(record, self.plan)
        there = (self.out / "checkpoints" / cell.stem).is_dir() and self.edit_file(cell).is_file()
        return "prune" in left or (bool(left) and cell.solver is not None and not there)

    def edit_file(self, cell: Cell) -> Path:
        """What the cell's solver found, weights rounded to the dtype of the checkpoint."""
        return self.out / "edits" / f"{cell.stem}.safetensors"

    def _prune(
        self, model: ModelSpec, source: Path, architecture: Architecture, cells: list[Cell]
    ) -> None:
        self.events.step(f"{model.name}: calibrating")
        fitting = []
        for cell in cells:
            try:
                self._check(cell, source, architecture)
                fitting.append(cell)
            except InputError as error:
                self.fail(cell, "prune", error)
        try:
            calibration = self._calibrate(model, source, fitting)
        except OutputError:
            raise
        except Exception as error:
            for cell in fitting:
                self.fail(cell, "prune", error)
            return
        for choice in calibration.choices.values():
            chosen = choice_line(self.plan.suite.prune.selector, choice)
            self.events.say(f"{model.name}: removing {listed(choice.blocks)}. {chosen}")
        for cell in fitting:
            self.events.step(f"{cell.name}: fitting and saving")
            self.attempt(cell, "prune", partial(self._write, cell, source, calibration))

    def _check(self, cell: Cell, source: Path, architecture: Architecture) -> None:
        """Refuse what became known only now that the model is here."""
        assert cell.solver is not None
        prune, solver = self.plan.suite.prune, cell.solver.solver
        check_variant(prune, cell.layers, solver, source, cell.model.id, architecture)

    def _calibrate(self, model: ModelSpec, source: Path, cells: list[Cell]) -> Calibration:
        suite = self.plan.suite
        counts = [cell.layers for cell in cells]
        solvers = [cell.solver.solver for cell in cells if cell.solver]
        return calibrated(source, model, suite.prune, suite.calibration, counts, solvers, self.device)

    def _write(self, cell: Cell, source: Path, calibration: Calibration) -> None:
        from replaceme import write_checkpoint

        assert cell.solver is not None
        suite, solver = self.plan.suite, cell.solver.solver
        prune, data = suite.prune, suite.calibration
        variant = fitted(source, calibration, cell.model, prune, data, cell.layers, solver)
        found, choice, provenance = variant.fit, variant.choice, variant.provenance
        out = self.checkpoint(cell, source)
        write_checkpoint(source, out, found.edit, provenance, dtype=cell.model.dtype, overwrite=True)
        dtype = models.checkpoint_dtype(models.read_config(out))
        save_edit(self.edit_file(cell), found.edit.rounded(dtype), provenance)
        self.records[cell].prune = records.Prune(
            blocks=provenance.blocks,
            score=choice.score if choice else None,
            runner_up=provenance.runner_up,
            distances=_distances(calibration, prune.selector) if choice else None,
            runner_up_score=choice.runner_up_score if choice else None,
            relative_error=found.relative_error,
            mean_cosine=found.mean_cosine,
            loss=found.loss,
            intact_loss=found.intact_loss,
            held_back_tokens=calibration.held_back.batches.tokens,
            warning=found.warning,
            notes=found.notes,
            solve_seconds=found.seconds,
            calibration_tokens=calibration.tokens,
            calibration_seconds=calibration.seconds,
            **environment.peak_memory(),
            **_size(out),
        )
        if found.warning:
            self.events.say(f"warning: {cell.name}: {found.warning}")

    def _baseline(self, cell: Cell, source: Path) -> None:
        from replaceme import Edit, write_checkpoint

        out = self.checkpoint(cell, source)
        if out != source:
            write_checkpoint(source, out, Edit(), None, dtype=cell.model.dtype, overwrite=True)
        self.records[cell].prune = records.Prune(blocks=[], **_size(out))

    # ---- serve

    def _serve(self, cell: Cell, source: Path) -> None:
        if serving_left(self.records[cell], self.plan):
            self.attempt(cell, "serve", partial(self._measure, cell, source))

    def _measure(self, cell: Cell, source: Path) -> None:
        settings = self.plan.suite.serve
        assert settings is not None
        folder = self.checkpoint(cell, source)
        identity = serving_identity(models.read_config(folder), settings, cell.stem)
        for other, record in self.records.items():
            if record.serving and record.serving.identity == identity:
                self.records[cell].serving = record.serving
                return
            failure = record.failed("serve")
            if failure and other != cell and (other.model, other.layers) == (cell.model, cell.layers):
                raise ServingError(failure.error)
        self.events.step(f"{cell.name}: serving with {settings.engine}")
        log = self.out / "logs" / f"serve-{cell.stem}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self.records[cell].serving = records.Serving(
            identity=identity,
            measured_on=cell.name,
            processes=[
                measure(folder, settings, log.with_suffix(f".{process}.log"))
                for process in range(1, settings.processes + 1)
            ],
        )

    # ---- records

    def attempt(self, cell: Cell, stage: str, work: Callable[[], None]) -> None:
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
        text = str(error).strip() or type(error).__name__
        known = isinstance(error, InputError | ServingError)
        trace = None if known else "".join(traceback.format_exception(error)[-6:])
        record = self.records[cell]
        self.failed.add((cell, stage))
        record.failures = [failure for failure in record.failures if failure.stage != stage]
        record.failures.append(Failure(stage=stage, error=text, traceback=trace))
        self._save(cell)
        self.events.say(f"failed: {cell.name}, {stage}: {text.splitlines()[0]}")
        self.events.done(1)

    def _save(self, cell: Cell) -> None:
        record = self.records[cell]
        if record.failures:
            record.status = "failed"
        else:
            record.status = "started" if stages_left(record, self.plan) else "complete"
        record.environment = environment.describe()
        record.updated = datetime.now(UTC).isoformat(timespec="seconds")
        record.runtime = {
            "device": self.device,
            "calibration_batch_size": self.plan.suite.prune.batch_size,
            "score_batch_size": self.plan.suite.score.batch_size if self.plan.suite.score else None,
        }
        self.store.write(cell.stem, record)

    def _finish(self, cell: Cell) -> None:
        """Drop failures of stages that the plan no longer has."""
        record = self.records[cell]
        left = stages_left(record, self.plan)
        kept = [failure for failure in record.failures if failure.stage in left]
        if kept != record.failures:
            record.failures = kept
            self._save(cell)


def _distances(calibration: Calibration, selector: str) -> list[list[float | None]]:
    """Distance of each block by size and start, to five digits.

    Of the last token for ``angular``, else of all tokens.
    """
    assert calibration.distances is not None
    distances = calibration.distances[selector != "angular"]
    layers = len(distances)
    return [
        [
            round(float(distances[start - 1, start + size - 1]), 5)
            for start in range(1, layers - size + 1)
        ]
        for size in range(1, layers)
    ]


def _size(folder: Path) -> dict[str, Any]:
    files = models.weight_files(folder)
    return {
        "dtype": models.checkpoint_dtype(models.read_config(folder)),
        "parameters": tensorfile.count_parameters(files),
        "checkpoint_bytes": sum(file.stat().st_size for file in files),
    }
