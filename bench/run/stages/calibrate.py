"""The calibration of one model, whose tokens are summed up part by part by whoever holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from bench.run.costs import calibration_of
from bench.run.executors import Held, Job, Outcome, cut
from bench.run.ledger import Ledger
from bench.suite.suite import ModelSpec
from replaceme.checkpoint import Checkpoint
from replaceme.report import Report

if TYPE_CHECKING:
    from torch import Tensor

    from replaceme.calibrating import Calibrated, Calibrator, Moments
    from replaceme.calibration import CalibrationText
    from replaceme.selection import Choice
    from replaceme.sums import Sum

Loaded = tuple["Calibrator", "CalibrationText"]


def calibrate(ledger: Ledger, model: ModelSpec, checkpoint: Checkpoint, held: Held) -> Calibrated:
    """Choose the blocks and collect their statistics.

    Args:
        held: what :func:`load` makes.

    Raises:
        InputError: the states of the model are not numbers.
    """
    from replaceme.calibrating import calibrate_in_passes

    ledger.progress.step(f"{model.name}: calibrating", calibration_of(model))
    parts, chooses = ledger.do(Job(list_work, (), held))
    found = calibrate_in_passes(
        partial(_sum, ledger, held, sum_distances, (), parts) if chooses else None,
        lambda total: ledger.do(Job(choose, (total,), held)),
        lambda choices, report: _sum(ledger, held, sum_moments, (choices,), parts, report),
        ledger.progress.share,
    )
    checkpoint.check_finite(found)
    return found


def _sum(
    ledger: Ledger,
    held: Held,
    call: Callable[..., Any],
    arguments: tuple[Any, ...],
    parts: range,
    report: Report,
) -> Any:
    """What a call sums up over all parts; the sums are added in the order of the parts."""
    portions = cut(parts, ledger.executor.parts)
    jobs = [Job(call, (*arguments, portion), held) for portion in portions]
    sums = _in_order(ledger.run(jobs, report))
    total = next(sums)
    for later in sums:
        total.extend(later)
    return total


def _in_order(outcomes: Iterator[tuple[int, Outcome]]) -> Iterator[Any]:
    """The results of jobs in the order of their numbers."""
    waiting: dict[int, Any] = {}
    number = 0
    for at, outcome in outcomes:
        waiting[at] = outcome.get()
        while number in waiting:
            yield waiting.pop(number)
            number += 1


# ---- what is done by whoever holds the model


def load(checkpoint: Checkpoint, text: CalibrationText, settings: dict[str, Any]) -> Loaded:
    """A model that can be calibrated for all its cells, and what on."""
    return checkpoint.load_calibrator(text, **settings), text


def list_work(loaded: Loaded) -> tuple[range, bool]:
    """The parts of the text, and whether blocks are chosen."""
    return range(loaded[0].parts), bool(loaded[0].counts)


def sum_distances(loaded: Loaded, parts: range, report: Report) -> Sum:
    """See :meth:`replaceme.calibrating.Calibrator.sum_distances`."""
    return loaded[0].sum_distances(parts, report)


def choose(loaded: Loaded, total: Sum) -> tuple[Tensor, dict[int, Choice]]:
    """See :meth:`replaceme.calibrating.Calibrator.choose`."""
    return loaded[0].choose(total)


def sum_moments(loaded: Loaded, choices: dict[int, Choice], parts: range, report: Report) -> Moments:
    """See :meth:`replaceme.calibrating.Calibrator.sum_moments`."""
    return loaded[0].sum_moments(choices, parts, report)
