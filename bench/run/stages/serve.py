"""The serve stage of a run: one measurement for each shape of checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench import records
from bench.run.checkpoints import Checkpoints
from bench.run.costs import serving_of
from bench.run.executors import Held, Job, Outcome
from bench.run.ledger import Ledger
from bench.serving import (
    ServeSettings,
    ServingIdentity,
    ServingResult,
    Workers,
    measure,
    prepare_workers,
)
from bench.suite.matrix import Cell, serving_identity
from replaceme.io import models
from replaceme.report import Report

Alike = dict[ServingIdentity, list[Cell]]


class ServeStage:
    """Serves the cells of one model that have no measurement yet; cells of one shape share it, or the
    reason why there is none."""

    def __init__(
        self, ledger: Ledger, checkpoints: Checkpoints, source: Path, cells: list[Cell]
    ) -> None:
        self.ledger, self.checkpoints, self.source, self.cells = ledger, checkpoints, source, cells

    def execute(self) -> None:
        if (settings := self.ledger.plan.suite.serve) is None:
            return
        left = self._list_left(settings)
        while left:
            together = [*self._list_together(left, settings)]
            jobs = [self._job([left[one][0] for one in shape], settings) for shape in together]
            for number, outcome in self.ledger.run(jobs):
                self._record(together[number], outcome, left)
        self.ledger.executor.let_go()

    def _list_left(self, settings: ServeSettings) -> Alike:
        """The cells that lack a measurement, by what it depends on; those that another cell has it of
        get it."""
        left: Alike = {}
        for cell in self.cells:
            if "serve" not in self.ledger.list_due(cell):
                continue
            with self.ledger.guard([(cell, "serve")]):
                folder = self.checkpoints.provide(cell, self.source)
                config, served_on = models.read_config(folder), self.ledger.machine.served_on
                identity = serving_identity(config, settings, cell.stem, served_on)
                if known := self._find(identity):
                    with self.ledger.stage(cell, "serve") as record:
                        record.serving = known
                else:
                    left.setdefault(identity, []).append(cell)
        return left

    def _find(self, identity: ServingIdentity) -> records.Serving | None:
        """A measurement that is recorded."""
        found = (record.serving for record in self.ledger.records.values() if record.serving)
        return next((serving for serving in found if serving.identity == identity), None)

    def _list_together(self, left: Alike, settings: ServeSettings) -> Iterator[list[ServingIdentity]]:
        """What one engine process measures: checkpoints that differ in values alone, where each is
        measured by itself."""
        shapes: dict[object, list[ServingIdentity]] = {}
        for identity, (cell, *_) in left.items():
            by_itself = settings.per_checkpoint
            shape = self.checkpoints.hash_shape(cell, self.source) if by_itself else identity
            shapes.setdefault(shape, []).append(identity)
        yield from shapes.values()

    def _job(self, cells: list[Cell], settings: ServeSettings) -> Job:
        """What measures the checkpoints of some cells."""
        first, more = cells[0], f" and {len(cells) - 1} more of its shape" if len(cells) > 1 else ""
        folders = [self.checkpoints.provide(cell, self.source).absolute() for cell in cells]
        return Job(
            measure_all,
            (folders, settings, first.stem, self.ledger.out.absolute() / "logs"),
            Held(prepare_workers, (settings,)),
            f"{first.name}{more}: serving with {settings.engine}",
            serving_of(first),
            exclusive=True,
        )

    def _record(self, together: list[ServingIdentity], outcome: Outcome, left: Alike) -> None:
        """Record what was measured; an error is that of the first checkpoint, and the others are
        measured without it."""
        if outcome.error:
            for cell in left.pop(together[0]):
                with self.ledger.guard([(cell, "serve")]):
                    outcome.get()
            return
        for identity, *processes in zip(together, *outcome.get(), strict=True):
            first, *_ = cells = left.pop(identity)
            serving = records.Serving(identity=identity, measured_on=first.name, processes=processes)
            for cell in cells:
                with self.ledger.stage(cell, "serve") as record:
                    record.serving = serving


# ---- what is done by whoever has the engine


def measure_all(
    workers: Workers,
    folders: list[Path],
    settings: ServeSettings,
    name: str,
    logs: Path,
    report: Report,
) -> list[list[ServingResult]]:
    """Measure checkpoints of one shape in as many engine processes as are wanted.

    Args:
        name: of the logs.
        logs: folder for the output of the engines.

    Returns:
        What each process measured, a result for each checkpoint.

    Raises:
        ServingError: the engine failed.
    """
    logs.mkdir(parents=True, exist_ok=True)
    results = []
    for process in range(1, settings.processes + 1):
        log = logs / f"serve-{name}.{process}.log"
        results.append(measure(folders, settings, log, logs, workers))
        report(process / settings.processes)
    return results
