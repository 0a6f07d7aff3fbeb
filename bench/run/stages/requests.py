"""The requests of a run's tasks, built once for all models, and what a run says about them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from bench.run.ledger import Ledger
from bench.run.resume import forget_other_requests
from bench.suite.matrix import Cell
from bench.suite.suite import ModelSpec
from bench.tasks.planned import PlannedTask, stage_of
from bench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from bench.scoring.checkpoint import CheckpointScorer
    from bench.scoring.one_pass import OnePass
    from bench.scoring.tasks import PreparedTask
    from bench.scoring.unloaded import UnloadedScorer

    Scorer = OnePass | CheckpointScorer | UnloadedScorer


class TaskRequests:
    """Tasks with their requests; a task that is put into a chat template has others for each model."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._built: dict[tuple[PlannedTask, ModelSpec | None], PreparedTask] = {}

    def build_due(self) -> None:
        """Build what is to be scored and needs no model, so that the remaining time can be told.

        What cannot be built fails where it is scored.
        """
        stages = {stage for cell in self._ledger.records for stage in self._ledger.list_due(cell)}
        tasks = [task for task in self._ledger.plan.tasks if stage_of(task) in stages]
        alike = [task for task in tasks if not task.spec.apply_chat_template]
        if alike:
            self._ledger.progress.step(f"reading the items of {len(alike)} tasks")
        for number, task in enumerate(alike, 1):
            with suppress(Exception):
                self._build(task, None, [*self._ledger.records])
            self._ledger.progress.share(number / len(alike))

    def build(self, task: PlannedTask, scorer: Scorer | None, cells: list[Cell]) -> PreparedTask:
        """The requests of a task for one model.

        Args:
            scorer: of the model, whose chat template is used where the task wants one; ``None``: no
                task wants one.
            cells: all that are scored of the model.
        """
        if task.spec.apply_chat_template:
            return self._build(task, scorer, cells)
        return self._build(task, None, [*self._ledger.records])

    def _build(self, task: PlannedTask, scorer: Scorer | None, cells: list[Cell]) -> PreparedTask:
        from bench.scoring.tasks import PreparedTask

        key = (task, cells[0].model if scorer else None)
        if key not in self._built:
            lm = scorer.lm if scorer else None
            built = PreparedTask.of(task, lm)
            self._built[key] = built
            self._ledger.progress.learn_task(task, built)
            self._tell(task.spec, built.num_fewshot)
            self._reopen(task, built.requests, cells)
        return self._built[key]

    def _reopen(self, task: PlannedTask, requests: str, cells: list[Cell]) -> None:
        """Have cells scored again that were asked something else."""
        records = self._ledger.records
        stale = [cell for cell in cells if forget_other_requests(records[cell], task, requests)]
        if stale:
            self._ledger.reopened |= dict.fromkeys(cell.model for cell in stale)
            self._ledger.progress.say(
                f"{task.name}: it asks something else than when {len(stale)} cells were scored, "
                f"which are scored again."
            )

    def _tell(self, spec: TaskSpec, shots: int) -> None:
        """Say where lm-eval does something else than was asked for."""
        if spec.num_fewshot not in (None, shots):
            self._ledger.progress.say(
                f"{spec.task}: {shots}-shot, which the task fixes; {spec.num_fewshot} examples were "
                f"asked for."
            )
        if spec.apply_chat_template not in (None, False, True, "default"):
            self._ledger.progress.say(
                f"{spec.task}: lm-eval renders the tokenizer's default chat template, whatever "
                f"apply_chat_template names."
            )
