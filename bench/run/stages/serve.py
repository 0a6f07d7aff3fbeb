"""The serve stage of a run: one measurement for each shape of checkpoint."""

from __future__ import annotations

from pathlib import Path

from bench import records
from bench.run.checkpoints import Checkpoints
from bench.run.costs import serving_of
from bench.run.ledger import Ledger
from bench.serving import ServingError, ServingIdentity, ServingResult, measure
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

    def execute(self) -> None:
        for cell in self.cells:
            if "serve" in self.ledger.list_due(cell):
                with self.ledger.stage(cell, "serve") as record:
                    record.serving = self._measure(cell)

    def _measure(self, cell: Cell) -> records.Serving:
        settings = self.ledger.plan.suite.serve
        assert settings is not None
        folder = self.checkpoints.provide(cell, self.source)
        identity = serving_identity(models.read_config(folder), settings, cell.stem)
        for record in self.ledger.records.values():
            if record.serving and record.serving.identity == identity:
                return record.serving
        if error := self.errors.get(identity):
            raise error
        try:
            processes = self._serve(cell, folder)
        except ServingError as error:
            self.errors[identity] = error
            raise
        return records.Serving(identity=identity, measured_on=cell.name, processes=processes)

    def _serve(self, cell: Cell, folder: Path) -> list[ServingResult]:
        """Measure a checkpoint in as many engine processes as the suite wants."""
        settings = self.ledger.plan.suite.serve
        assert settings is not None
        self.ledger.progress.step(f"{cell.name}: serving with {settings.engine}", serving_of(cell))
        logs, results = self.ledger.out / "logs", []
        logs.mkdir(parents=True, exist_ok=True)
        for process in range(1, settings.processes + 1):
            results.append(measure(folder, settings, logs / f"serve-{cell.stem}.{process}.log", logs))
            self.ledger.progress.share(process / settings.processes)
        return results
