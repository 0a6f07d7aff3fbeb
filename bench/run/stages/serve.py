"""The serve stage of a run: one measurement for each shape of checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import records
from bench.serving import ServingError, measure
from bench.suite.matrix import Cell, serving_identity
from replaceme.io import models
from replaceme.recipe import digest

if TYPE_CHECKING:
    from bench.run.runner import Run


class ServeStage:
    """Serves the cells of one model that have no measurement yet; cells of one shape share it, or the
    reason why there is none."""

    def __init__(self, run: Run, source: Path, cells: list[Cell]) -> None:
        self.run, self.source, self.cells = run, source, cells
        self.errors: dict[str, ServingError] = {}

    def execute(self) -> None:
        for cell in self.cells:
            if "serve" in self.run.due(cell):
                self.run.attempt(cell, "serve", partial(self._measure, cell))

    def _measure(self, cell: Cell) -> None:
        settings = self.run.plan.suite.serve
        assert settings is not None
        folder = self.run.checkpoints.whole(cell, self.source)
        identity = serving_identity(models.read_config(folder), settings, cell.stem)
        for record in self.run.records.values():
            if record.serving and record.serving.identity == identity:
                self.run.records[cell].serving = record.serving
                return
        if error := self.errors.get(digest(identity)):
            raise error
        self.run.events.step(f"{cell.name}: serving with {settings.engine}")
        logs = self.run.out / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        try:
            processes = [
                measure(folder, settings, logs / f"serve-{cell.stem}.{process}.log", logs)
                for process in range(1, settings.processes + 1)
            ]
        except ServingError as error:
            self.errors[digest(identity)] = error
            raise
        self.run.records[cell].serving = records.Serving(
            identity=identity, measured_on=cell.name, processes=processes
        )
