"""Plan → records: prune, heal, score and serve what is not recorded yet, model by model."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.run.checkpoints import Checkpoints
from bench.run.flips import record_flips
from bench.run.host.leftovers import discard
from bench.run.ledger import Ledger
from bench.run.memory import measure_models
from bench.run.stages.heal import HealStage
from bench.run.stages.prune import PruneStage
from bench.run.stages.requests import TaskRequests
from bench.run.stages.score import ScoreStage
from bench.run.stages.serve import ServeStage
from bench.suite.matrix import Cell
from bench.suite.suite import ModelSpec
from replaceme.checkpoint import Checkpoint
from replaceme.errors import InputError


class Run:
    """One run of a plan into the result folder of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.checkpoints = Checkpoints(ledger.out.absolute(), ledger.plan.suite.keep_checkpoints)
        self.requests = TaskRequests(ledger)

    def check_models(self) -> None:
        """Refuse models on this machine that transformers would fill up with random numbers, and a
        limit on memory that two layers of one do not fit into.

        Raises:
            InputError: naming the tensors, or the least.
        """
        for model in self.ledger.plan.suite.models:
            if any(map(self.ledger.list_due, self._cells_of(model))):
                found = Checkpoint.find(model.id, model.revision, model.trust_remote_code)
                if found:
                    found.check_complete()
        measure_models(self.ledger.plan)

    def check_gpus(self) -> None:
        """Refuse engines over more GPUs than whoever starts them has.

        Raises:
            InputError: naming both numbers.
        """
        serve, gpus = self.ledger.plan.suite.serve, self.ledger.executor.gpus
        if serve and gpus is not None and serve.tensor_parallel_size > gpus:
            size = serve.tensor_parallel_size
            raise InputError(
                f"serve.tensor_parallel_size is {size}, and a worker has {gpus:g} "
                f"GPU{'s' * (gpus != 1)}; executor.gpus says how many."
            )

    def execute(self) -> None:
        """Do everything that is left.

        Raises:
            OutputError: the result folder cannot be written.
        """
        self.ledger.write_changed()
        self.requests.build_due()
        for models in (self.ledger.plan.suite.models, self.ledger.reopened):
            calls = [partial(self._execute_model, model) for model in models]
            self.ledger.executor.side_by_side(calls)

    def make(self, model: ModelSpec, cells: list[Cell]) -> Path | None:
        """Prune what is not pruned, and heal it where that is wanted; returns the folder of the model if
        it was found."""
        checkpoint = self._open(model, cells)
        if checkpoint is None:
            return None
        for stage in (PruneStage, HealStage):
            stage(self.ledger, self.checkpoints, model, checkpoint, cells).execute()
        return checkpoint.folder

    def _open(self, model: ModelSpec, cells: list[Cell]) -> Checkpoint | None:
        self.ledger.progress.step(f"{model.name}: locating the model")
        first = ((cell, due[0]) for cell in cells if (due := self.ledger.list_due(cell)))
        with self.ledger.guard(first):
            checkpoint = Checkpoint.open(model.id, model.revision, model.trust_remote_code)
            self.ledger.progress.learn_model(model, checkpoint)
            return checkpoint
        return None

    def _execute_model(self, model: ModelSpec) -> None:
        cells = self._cells_of(model)
        if any(map(self.ledger.list_due, cells)) and (source := self.make(model, cells)):
            made = [cell for cell in cells if self.ledger.records[cell].is_made]
            if made and self.ledger.plan.suite.score:
                ScoreStage(self.ledger, self.checkpoints, self.requests, source, made).execute()
            ServeStage(self.ledger, self.checkpoints, source, made).execute()
        self.ledger.progress.rest()
        record_flips(self.ledger, model)
        self._tidy(cells)

    def _cells_of(self, model: ModelSpec) -> list[Cell]:
        return [cell for cell in self.ledger.plan.cells if cell.model == model]

    def _tidy(self, cells: list[Cell]) -> None:
        """Remove what the cells of one model need no more."""
        self.checkpoints.tidy({cell: self.ledger.records[cell] for cell in cells})
        due = [stage for cell in cells for stage in self.ledger.list_due(cell)]
        if cells and not any(stage.startswith("score") for stage in due):
            discard(self.ledger.answers_file(cells[0]))
            discard(self.ledger.texts_file(cells[0]))
