"""The score stage of a run: all tasks on all variants of one model."""

from __future__ import annotations

from pathlib import Path

from bench.run.checkpoints import Checkpoints
from bench.run.ledger import Ledger
from bench.run.resume import list_tasks_left
from bench.run.stages.by_checkpoint import CheckpointScoring
from bench.run.stages.generation import GenerationScoring
from bench.run.stages.one_pass import OnePassScoring
from bench.run.stages.requests import TaskRequests
from bench.run.stages.scores import Scores
from bench.suite.matrix import Cell
from bench.tasks.planned import stage_of


class ScoreStage:
    """Scores the cells of one model that have a checkpoint.

    Texts are written by vLLM. All else is answered in one pass where the suite, the model and the task
    allow it, and checkpoint by checkpoint where not.
    """

    def __init__(
        self,
        ledger: Ledger,
        checkpoints: Checkpoints,
        requests: TaskRequests,
        source: Path,
        cells: list[Cell],
    ) -> None:
        self.ledger, self.cells = ledger, cells
        self.scores = Scores(ledger, checkpoints, requests, source, cells)
        self.generation = GenerationScoring(self.scores)
        self.one_pass = OnePassScoring(self.scores)
        self.by_checkpoint = CheckpointScoring(self.scores)

    def execute(self) -> None:
        """Score what is due."""
        tasks = [task for task in self.ledger.plan.tasks if self.scores.list_lacking(task)]
        if tasks:
            reasons = self.generation.write(tasks)
            left = [task for task in tasks if task not in reasons and self.scores.list_lacking(task)]
            if self.scores.settings.method == "per-variant":
                reasons |= dict.fromkeys(left, "score.method is per-variant")
            elif left:
                reasons |= self.one_pass.score(left)
            self.by_checkpoint.score(reasons)
        self._score_groups()

    def _score_groups(self) -> None:
        """Make the scores of groups from those of their tasks."""
        for group in self.ledger.plan.groups:
            for cell in self.cells:
                record = self.ledger.records[cell]
                due = stage_of(group) in self.ledger.list_due(cell)
                if due and not list_tasks_left(record, list(group.tasks)):
                    with self.ledger.stage(cell, stage_of(group)):
                        from bench.scoring.aggregate import aggregate

                        record.groups[group.name] = aggregate(group, record.quality)
