"""``replaceme-bench verify``: one cell scored in one pass and by lm-eval on its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from bench.run.lock import locked
from bench.run.runner import Run
from bench.run.score_stage import ScoreStage
from bench.suite.matrix import Cell, Plan
from bench.suite.scoring import Task
from replaceme.errors import InputError

if TYPE_CHECKING:
    from bench.scoring.checkpoint import CheckpointScorer
    from bench.scoring.one_pass import OnePass
    from bench.scoring.tasks import PreparedTask
    from bench.scoring.verify import Comparison


@dataclass(frozen=True)
class Verdict:
    """A task both ways; ``obstacle`` says why it is not scored in one pass, if so."""

    task: str
    comparison: Comparison | None = None
    metrics: tuple[tuple[str, float, float], ...] = ()
    obstacle: str | None = None

    @property
    def agree(self) -> bool:
        return self.comparison is None or self.comparison.agree


def verify(plan: Plan, name: str, out: Path, say: Callable[[str], None]) -> list[Verdict]:
    """Score one cell both ways; prunes it first where that is not done.

    Raises:
        InputError: the suite scores nothing, there is no such cell, or it cannot be made.
    """
    cell = next((cell for cell in plan.cells if cell.name == name), None)
    if cell is None:
        names = ", ".join(cell.name for cell in plan.cells)
        raise InputError(f"--cell {name}: there is no such cell; the suite has {names}.")
    if not plan.tasks:
        raise InputError("the suite has no score section, so that there is nothing to verify.")
    with locked(out):
        run = Run(Plan(plan.suite, [cell], plan.tasks), out, retry_failed=True)
        source = run.make(cell.model, [cell])
        if source is None or run.records[cell].prune is None:
            failure = run.records[cell].failed("prune")
            raise InputError(f"{name} cannot be pruned: {failure.error if failure else 'no checkpoint'}")
        stage = ScoreStage(run, source, [cell])
        return _verdicts(stage, cell, plan.tasks, say)


def _verdicts(
    stage: ScoreStage, cell: Cell, tasks: list[Task], say: Callable[[str], None]
) -> list[Verdict]:
    from bench.scoring.answers import Answers

    say(f"{cell.name}: loading")
    one_pass, checkpoint = stage.load(Answers()), stage.load_checkpoint(cell)
    verdicts = []
    for task in tasks:
        say(f"{cell.name}: {task.spec.task}, both ways")
        if obstacle := one_pass.obstacle or stage.obstacle(task):
            verdicts.append(Verdict(task.spec.task, obstacle=obstacle))
        else:
            verdicts.append(_verdict(one_pass, checkpoint, cell.stem, stage.prepared(task)))
    return verdicts


def _verdict(one_pass: OnePass, checkpoint: CheckpointScorer, stem: str, task: PreparedTask) -> Verdict:
    from bench.scoring.verify import Comparison

    requests = [*dict.fromkeys(one_pass.lm.requests(task.instances))]
    one_pass.answer(task, [stem])
    answers = [one_pass.sweep.known.of(stem, request) for request in requests]
    size = checkpoint.batch_size
    theirs = checkpoint.answers(requests, size)
    found = Comparison.of(answers, theirs, checkpoint.answers(requests, max(1, size // 2)))
    ours = one_pass.score(task, stem).metrics
    with one_pass.lm.answering(dict(zip(requests, theirs, strict=True)).__getitem__):
        metrics = task.score(one_pass.lm).metrics
    pairs = tuple((name, ours[name]["value"], metrics[name]["value"]) for name in ours)
    return Verdict(task.spec.task, found, pairs)


def table(verdicts: list[Verdict]) -> Table:
    """For the terminal."""
    columns = Table(box=None, header_style="bold", pad_edge=False)
    columns.add_column("task")
    for name in ("requests", "largest Δ", "lm-eval's own Δ", "greedy differs"):
        columns.add_column(name, justify="right")
    columns.add_column("metrics: in one pass, by lm-eval")
    for verdict in verdicts:
        if (found := verdict.comparison) is None:
            columns.add_row(verdict.task, "", "", "", "", f"not in one pass: {verdict.obstacle}")
            continue
        metrics = "; ".join(f"{name} {a:.6g}, {b:.6g}" for name, a, b in verdict.metrics)
        columns.add_row(
            verdict.task,
            f"{found.requests:,}",
            f"{found.difference:.1e}",
            f"{found.spread:.1e}",
            str(found.flips),
            metrics,
        )
    return columns
