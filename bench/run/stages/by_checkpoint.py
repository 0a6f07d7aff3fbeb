"""Scoring one checkpoint at a time, through lm-eval's own forward."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.run.costs import scoring_of
from bench.run.executors import Held, Job
from bench.run.host import environment
from bench.run.stages.scores import Scores
from bench.suite.matrix import Cell
from bench.tasks.planned import PlannedTask, stage_of
from replaceme.io import loading

if TYPE_CHECKING:
    from bench.scoring.checkpoint import CheckpointScorer
    from bench.scoring.replies import Replies, Requests
    from bench.scoring.tasks import PreparedTask


class CheckpointScoring:
    """Scores tasks on the cells of one model that lack them."""

    def __init__(self, scores: Scores) -> None:
        self.scores, self.ledger = scores, scores.ledger

    def score(self, reasons: dict[PlannedTask, str]) -> None:
        """Score tasks, each of which has a reason why it is not scored in one pass."""
        prepared = dict(self._prepare([*reasons]))
        asked = [*self._list_asked(prepared)]
        for number, outcome in self.ledger.run([job for *_, job in asked]):
            cell, task, _ = asked[number]
            with self.ledger.stage(cell, stage_of(task)):
                self._record(cell, task, prepared[task], reasons[task], *outcome.get())
        self.ledger.executor.let_go()

    @loading.enough_memory()
    def load(self, cell: Cell) -> CheckpointScorer:
        """lm-eval's own model of a cell's checkpoint, in this process.

        Raises:
            InputError: what it computes are not numbers.
        """
        scorer = load_checkpoint_scorer(*self._arguments(cell))
        if not scorer.gives_numbers:
            raise self.scores.refuse_nan()
        return scorer

    def _prepare(self, tasks: list[PlannedTask]) -> Iterator[tuple[PlannedTask, PreparedTask]]:
        """The tasks with their requests; those that cannot be built fail."""
        for task in tasks:
            with self.ledger.guard(self.scores.lacking_stages([task])):
                yield task, self.scores.prepare(task, self.scores.unloaded)

    def _list_asked(
        self, prepared: dict[PlannedTask, PreparedTask]
    ) -> Iterator[tuple[Cell, PlannedTask, Job]]:
        """What each cell is asked, those of one cell behind each other."""
        requests: dict[PlannedTask, Requests] = {}
        for cell in self.scores.cells:
            for task in [task for task in prepared if cell in self.scores.list_lacking(task)]:
                with self.ledger.guard([(cell, stage_of(task))]):
                    written = self.scores.read_texts(cell, prepared[task]) is not None
                    if task not in requests:
                        requests[task] = prepared[task].ask(written)
                    held = Held(load_checkpoint_scorer, self._arguments(cell))
                    title, cost = f"{cell.name}: {task.name}", scoring_of(cell, task)
                    yield cell, task, Job(reply, (requests[task],), held, title, cost)

    def _arguments(self, cell: Cell) -> tuple[Any, ...]:
        """Of :func:`load_checkpoint_scorer`."""
        settings = {
            "dtype": self.scores.dtype,
            "device": self.ledger.device,
            "batch_size": self.scores.settings.batch_size,
            "trust_remote_code": cell.model.trust_remote_code,
        }
        return self.scores.checkpoints.provide(cell, self.scores.source), settings

    @loading.enough_memory()
    def _record(
        self,
        cell: Cell,
        task: PlannedTask,
        prepared: PreparedTask,
        reason: str,
        replies: Replies | None,
        dependence: str | None,
        memory: dict[str, int | None],
    ) -> None:
        """Record what a cell replied.

        Raises:
            InputError: it did not.
        """
        if replies is None:
            raise self.scores.refuse_nan()
        if dependence:
            reason += f"; one request at a time: {dependence}"
        texts = self.scores.read_texts(cell, prepared)
        score = self.scores.unloaded.score_replies(prepared, replies, texts)
        generated = replies.generated if texts is None else texts
        generation = self.scores.describe_texts(cell, prepared, generated, reason)
        how = {"method": "per-variant", "reason": reason, "generation": generation}
        self.scores.record(cell, task, prepared, score, **how, **memory)


# ---- what is done by whoever holds the checkpoint


def load_checkpoint_scorer(folder: Path, settings: dict[str, Any]) -> CheckpointScorer:
    """lm-eval's own model of a checkpoint.

    Args:
        settings: of :class:`bench.scoring.checkpoint.CheckpointScorer`.
    """
    from bench.scoring.checkpoint import CheckpointScorer

    return CheckpointScorer(folder, **settings)


def reply(
    scorer: CheckpointScorer, asked: Requests
) -> tuple[Replies | None, str | None, dict[str, int | None]]:
    """What a checkpoint replies to a task.

    Returns:
        The replies, ``None`` where it has no numbers; why it is asked one request at a time, if so; and
        the peak memory of this process.
    """
    if not scorer.gives_numbers:
        return None, None, {}
    dependence = scorer.dependence(asked.instances)
    replies = scorer.reply(asked, 1 if dependence else None)
    return replies, dependence, environment.peak_memory()
