"""``verify``: one cell scored in one pass and by lm-eval on its checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.exits import EXIT_DIFFERENT
from bench.verbs.completion import complete_cells
from bench.verbs.suite_options import LIMIT, OUT, SUITE, expand_suite
from replaceme.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from bench.run.stages.score import ScoreStage
    from bench.scoring.checkpoint import CheckpointScorer
    from bench.scoring.one_pass import OnePass
    from bench.scoring.tasks import PreparedTask, TaskScore
    from bench.scoring.verify import Agreement
    from bench.suite.matrix import Cell, Plan
    from bench.tasks.planned import PlannedTask

METRICS = 1e-4  # relative difference of a metric that likelihoods within their tolerance explain


@dataclass(frozen=True)
class Verdict:
    """A task as a run scores it, against one request at a time.

    Attributes:
        comparison: of the likelihoods; ``None`` where none are asked for, or nothing is compared.
        metrics: (name, as a run has it, one request at a time), in float32.
        obstacle: why it is not scored in one pass, if so.
        texts: of how many generated texts how many differ; ``None`` where none are compared.
    """

    task: str
    comparison: Agreement | None = None
    metrics: tuple[tuple[str, float, float], ...] = ()
    obstacle: str | None = None
    texts: tuple[int, int] | None = None

    @property
    def agree(self) -> bool:
        alike = all(isclose(ours, alone, rel_tol=METRICS) for _, ours, alone in self.metrics)
        compared = self.comparison is None or self.comparison.agree
        return alike and compared and not (self.texts and self.texts[1])


@click.command()
@SUITE
@OUT
@LIMIT
@click.option(
    "--cell",
    required=True,
    metavar="NAME",
    help="MODEL/baseline or MODEL/N/SOLVER.",
    shell_complete=complete_cells,
)
def verify(suite: Path, out: Path | None, limit: float | None, cell: str) -> None:
    """Score a cell as a run does and by lm-eval on its checkpoint, one request at a time."""
    from rich.console import Console

    from bench.console import chatter_to

    plan, folder = expand_suite(suite, (), out, limit)
    with chatter_to(folder / "logs" / "verify.log") as stderr:
        say = Console(file=stderr, highlight=False).print
        verdicts = verify_cell(plan, cell, folder, say)
    Console(highlight=False).print(make_table(verdicts))
    if not all(verdict.agree for verdict in verdicts):
        click.echo("They differ by more than float rounding explains.", err=True)
        sys.exit(EXIT_DIFFERENT)


def verify_cell(plan: Plan, name: str, out: Path, say: Callable[[str], None]) -> list[Verdict]:
    """Score one cell both ways; prunes it first where that is not done.

    Raises:
        InputError: the suite scores nothing, there is no such cell, or it cannot be made.
    """
    from bench.run.host.lock import hold_lock
    from bench.run.ledger import Ledger
    from bench.run.resume import Retry
    from bench.run.runner import Run
    from bench.run.stages.score import ScoreStage

    cell = next((cell for cell in plan.cells if cell.name == name), None)
    if cell is None:
        names = ", ".join(cell.name for cell in plan.cells)
        raise InputError(f"--cell {name}: there is no such cell; the suite has {names}.")
    if not plan.tasks:
        raise InputError("the suite has no score section, so that there is nothing to verify.")
    with hold_lock(out):
        ledger = Ledger(replace(plan, cells=[cell], groups=[]), out, Retry(failed=True))
        run = Run(ledger)
        source = run.make(cell.model, [cell])
        if source is None or not ledger.records[cell].is_made:
            failure = ledger.records[cell].unmade
            raise InputError(f"{name} cannot be pruned: {failure.error if failure else 'no checkpoint'}")
        stage = ScoreStage(ledger, run.checkpoints, run.requests, source, [cell])
        return _score_both_ways(stage, cell, plan.tasks, say)


def _score_both_ways(
    stage: ScoreStage, cell: Cell, tasks: list[PlannedTask], say: Callable[[str], None]
) -> list[Verdict]:
    say(f"{cell.name}: loading")
    one_pass, checkpoint = stage.one_pass.load(), stage.by_checkpoint.load(cell)
    verdicts = []
    for task in tasks:
        say(f"{cell.name}: {task.name}, as a run scores it and one request at a time")
        prepared = stage.scores.prepare(task, one_pass)
        if obstacle := one_pass.obstacle or stage.one_pass.refuse_kinds(task):
            verdicts.append(_check_batches(checkpoint, prepared, obstacle))
        else:
            verdicts.append(_check_one_pass(one_pass, checkpoint, cell.stem, prepared))
    return verdicts


def _check_one_pass(
    one_pass: OnePass, checkpoint: CheckpointScorer, stem: str, task: PreparedTask
) -> Verdict:
    from bench.scoring.float32 import in_float32
    from bench.scoring.verify import Agreement, unit_of
    from replaceme.decoder import Decoder

    requests = [*dict.fromkeys(one_pass.lm.requests(task.instances))]
    unit = unit_of(one_pass.lm.model.dtype)
    with in_float32(one_pass.sweep.fork.decoder), in_float32(Decoder.of(checkpoint.lm.model)):
        ours, exact = one_pass.ask(stem, requests), checkpoint.lm.answers(requests, 1)
    found = Agreement.of(ours, exact)
    if unit is not None:
        rounded, alone = one_pass.ask(stem, requests), checkpoint.lm.answers(requests, 1)
        found = found.with_rounding(rounded, alone, exact, unit)
    metrics = []
    for answers in (ours, exact):
        with one_pass.lm.answering(dict(zip(requests, answers, strict=True)).__getitem__):
            metrics.append(task.score(one_pass.lm))
    return Verdict(task.spec.task, found, _pair_metrics(*metrics))


def _check_batches(checkpoint: CheckpointScorer, task: PreparedTask, obstacle: str) -> Verdict:
    """A task that is scored checkpoint by checkpoint, in batches where that gives the same."""
    from bench.scoring.answering import KINDS
    from bench.scoring.float32 import in_float32
    from bench.scoring.verify import Agreement
    from replaceme.decoder import Decoder

    lm, name = checkpoint.lm, task.spec.task
    if dependence := checkpoint.dependence(task.instances):
        return Verdict(name, obstacle=f"{obstacle}; one request at a time: {dependence}")
    if int(lm.batch_size) == 1:
        return Verdict(name, obstacle=f"{obstacle}; one request at a time")
    generated = [instance for instance in task.instances if instance.request_type not in KINDS]
    if any(instance.args[1].get("do_sample") for instance in generated):
        return Verdict(name, obstacle=f"{obstacle}; texts drawn at random are not compared")
    found, metrics, texts = None, [], []
    with in_float32(Decoder.of(lm.model)):
        if requests := [*dict.fromkeys(lm.requests(task.instances))]:
            found = Agreement.of(lm.answers(requests, int(lm.batch_size)), lm.answers(requests, 1))
        for size in (None, 1):
            metrics.append(checkpoint.score(task, size))
            texts.append([instance.resps for instance in generated])
    different = sum(a != b for a, b in zip(*texts, strict=True))
    return Verdict(name, found, _pair_metrics(*metrics), obstacle, (len(generated), different))


def _pair_metrics(ours: TaskScore, alone: TaskScore) -> tuple[tuple[str, float, float], ...]:
    return tuple(
        (name, metric["value"], alone.metrics[name]["value"]) for name, metric in ours.metrics.items()
    )


def make_table(verdicts: list[Verdict]) -> Table:
    """For the terminal."""
    from rich.table import Table

    columns = Table(box=None, header_style="bold", pad_edge=False)
    columns.add_column("task")
    for name in ("requests", "largest Δ", "greedy differs", "rounding"):
        columns.add_column(name, justify="right")
    columns.add_column("metrics: as scored, one request at a time")
    for verdict in verdicts:
        metrics = [f"{name} {a:.6g}, {b:.6g}" for name, a, b in verdict.metrics]
        if verdict.texts and verdict.texts[0]:
            metrics.append(f"{verdict.texts[1]} of {verdict.texts[0]} texts differ")
        if verdict.obstacle:
            metrics.insert(0, f"not in one pass: {verdict.obstacle}")
        columns.add_row(verdict.task, *_format_comparison(verdict.comparison), "; ".join(metrics))
    return columns


def _format_comparison(found: Agreement | None) -> tuple[str, str, str, str]:
    if found is None:
        return "", "", "", ""
    rounding = "{:.1e}, {:.1e}".format(*found.rounding) if found.rounding else "–"
    return f"{found.requests:,}", f"{found.difference:.1e}", str(found.flips), rounding
