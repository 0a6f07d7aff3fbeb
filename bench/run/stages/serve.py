"""The serve stage of a run: one measurement for each shape of checkpoint."""

from __future__ import annotations

from pathlib import Path

from bench import records
from bench.run.checkpoints import Checkpoints
from bench.run.costs import serving_of
from bench.run.ledger import Ledger
from bench.serving import (
    ServeSettings,
    ServingError,
    ServingIdentity,
    ServingResult,
    Workers,
    measure,
    prepare_workers,
)
from bench.suite.matrix import Cell, serving_identity
from replaceme.io import models


class ServeStage:
    """Serves the cells of one model that have no measurement yet; cells of one shape share it, or the
    reason why there is none."""

    def __init__(
        self, ledger: Ledger, checkpoints: Checkpoints, source: Path, cells: list[Cell]
    ) -> None:
        self.ledger, self.checkpoints, self.source, self.cells = ledger, checkpoints, source, cells
        self.errors: dict[ServingIdentity, ServingError] = {}
        self.measured: dict[Cell, list[ServingResult]] = {}  # and not recorded yet

    def execute(self) -> None:
        if (settings := self.ledger.plan.suite.serve) is None:
            return
        with prepare_workers(settings) as workers:
            for cell in self.cells:
                if "serve" in self.ledger.list_due(cell):
                    with self.ledger.stage(cell, "serve") as record:
                        record.serving = self._measure(cell, settings, workers)

    def _measure(self, cell: Cell, settings: ServeSettings, workers: Workers) -> records.Serving:
        folder = self.checkpoints.provide(cell, self.source)
        identity = serving_identity(models.read_config(folder), settings, cell.stem)
        for record in self.ledger.records.values():
            if record.serving and record.serving.identity == identity:
                return record.serving
        if error := self.errors.get(identity):
            raise error
        try:
            processes = self._serve(cell, settings, workers)
        except ServingError as error:
            self.errors[identity] = error
            raise
        return records.Serving(identity=identity, measured_on=cell.name, processes=processes)

    def _serve(self, cell: Cell, settings: ServeSettings, workers: Workers) -> list[ServingResult]:
        """Measure a checkpoint in as many engine processes as the suite wants; each of them measures all
        that are still to be measured of its shape, where each is measured by itself."""
        if cell in self.measured:
            return self.measured.pop(cell)
        alike = [cell, *(self._list_alike(cell) if settings.per_checkpoint else [])]
        folders = [self.checkpoints.provide(other, self.source) for other in alike]
        more = f" and {len(alike) - 1} more of its shape" if len(alike) > 1 else ""
        self.ledger.progress.step(f"{cell.name}{more}: serving with {settings.engine}", serving_of(cell))
        logs, results = self.ledger.out / "logs", list[list[ServingResult]]()
        logs.mkdir(parents=True, exist_ok=True)
        for process in range(1, settings.processes + 1):
            log = logs / f"serve-{cell.stem}.{process}.log"
            results.append(measure(folders, settings, log, logs, workers))
            self.ledger.progress.share(process / settings.processes)
        self.measured |= {other: list(found) for other, *found in zip(alike, *results, strict=True)}
        return self.measured.pop(cell)

    def _list_alike(self, cell: Cell) -> list[Cell]:
        """The other cells that are to be served, and whose checkpoints differ in values alone."""
        due = [other for other in self.cells if "serve" in self.ledger.list_due(other)]
        shapes = {other: self.checkpoints.hash_shape(other, self.source) for other in due}
        return [other for other in due if other != cell and shapes[other] == shapes[cell]]
