"""Scoring one checkpoint at a time, through lm-eval's own forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.run.costs import scoring_of
from bench.run.stages.scores import Scores
from bench.suite.matrix import Cell
from bench.tasks.planned import PlannedTask, stage_of
from replaceme.io import loading

if TYPE_CHECKING:
    from bench.scoring.checkpoint import CheckpointScorer


class CheckpointScoring:
    """Scores tasks on the cells of one model that lack them."""

    def __init__(self, scores: Scores) -> None:
        self.scores, self.ledger = scores, scores.ledger

    def score(self, reasons: dict[PlannedTask, str]) -> None:
        """Score tasks, each of which has a reason why it is not scored in one pass."""
        for cell in self.scores.cells:
            left = {t: reason for t, reason in reasons.items() if cell in self.scores.list_lacking(t)}
            if left:
                self._score_cell(cell, left)

    @loading.enough_memory()
    def load(self, cell: Cell) -> CheckpointScorer:
        """lm-eval's own model of a cell's checkpoint.

        Raises:
            InputError: what it computes are not numbers.
        """
        from bench.scoring.checkpoint import CheckpointScorer

        scorer = CheckpointScorer(
            self.scores.checkpoints.provide(cell, self.scores.source),
            dtype=self.scores.dtype,
            device=self.ledger.device,
            batch_size=self.scores.settings.batch_size,
            trust_remote_code=cell.model.trust_remote_code,
        )
        if not _gives_numbers(scorer.lm.model):
            raise self.scores.refuse_nan()
        return scorer

    def _score_cell(self, cell: Cell, reasons: dict[PlannedTask, str]) -> None:
        from replaceme.allocator import free_memory

        self.ledger.progress.step(f"{cell.name}: loading for scoring")
        with self.ledger.guard([(cell, stage_of(task)) for task in reasons]):
            scorer = self.load(cell)
            for task, reason in reasons.items():
                self.ledger.progress.step(f"{cell.name}: {task.name}", scoring_of(cell, task))
                with self.ledger.stage(cell, stage_of(task)):
                    self._score_task(cell, task, scorer, reason)
            del scorer
        free_memory()

    @loading.enough_memory()
    def _score_task(self, cell: Cell, task: PlannedTask, scorer: CheckpointScorer, reason: str) -> None:
        prepared = self.scores.prepare(task, scorer)
        if dependence := scorer.dependence(prepared):
            reason += f"; one request at a time: {dependence}"
        texts = self.scores.read_texts(cell, prepared)
        score = scorer.score(prepared, 1 if dependence else None, texts)
        generation = self.scores.describe_texts(cell, prepared, scorer.lm.generated, reason)
        how = {"method": "per-variant", "reason": reason, "generation": generation}
        self.scores.record(cell, task, prepared, score, **how)


def _gives_numbers(model: Any) -> bool:
    """Whether a causal language model has no NaN in the logits of a few tokens."""
    import torch

    ids = torch.arange(8, device=model.device)[None]
    with torch.no_grad():
        return not bool(model(input_ids=ids).logits.isnan().any())
