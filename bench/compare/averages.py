"""Averages and RP of a cell on both sides, with intervals over the tasks' items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.compare import significance
from bench.compare.comparison import Averages, Change
from bench.compare.items import IncomparableError, Side, pair_items, scale
from bench.compare.significance import Floats
from bench.leaderboard.averages import average, counted
from bench.results import Key


def average_change(
    key: Key, base: Side, new: Side, baselines: tuple[Side, Side] | None
) -> Averages | None:
    """Average and RP on both sides, as in the leaderboard; ``None`` where one is unknown.

    Intervals are a bootstrap over the items of each task, the same items for the cell and its baseline.

    Args:
        baselines: of either side; ``None`` for a baseline itself, or where there are none.
    """
    numbers = [average(side.record).number for side in (base, new)]
    if numbers[0] is None or numbers[1] is None or _list_averaged(base) != _list_averaged(new):
        return None
    rest = tuple(side for side in baselines or () if _list_averaged(side) == _list_averaged(base))
    wholes = [average(side.record).number for side in rest]
    rps = [100 * n / whole for n, whole in zip(numbers, wholes, strict=False) if n is not None and whole]
    resampled = _resample_averages([base, new, *rest])
    change = rp_change = None
    if resampled is not None:
        change = _change(numbers[1] - numbers[0], resampled[:, 1] - resampled[:, 0])
        if len(rps) == 2 and bool((resampled[:, 2:] > 0).all()):
            relative = 100 * resampled[:, :2] / resampled[:, 2:]
            rp_change = _change(rps[1] - rps[0], relative[:, 1] - relative[:, 0])
    rp = (rps[0], rps[1]) if len(rps) == 2 else None
    return Averages(key, (numbers[0], numbers[1]), change, rp, rp_change)


def _list_averaged(side: Side) -> list[str]:
    """The tasks that count in the average, sorted."""
    return sorted(counted([side.record]))


def _change(value: float, resampled: Floats) -> Change:
    interval = significance.percentiles(resampled)
    return Change(value, interval.low, interval.high)


def _resample_averages(sides: Sequence[Side]) -> Floats | None:
    """Averages in percent of some cells on bootstrap samples of the same items; (resamples, cells)."""
    try:
        tasks = resample_tasks(sides, _list_averaged(sides[0]))
    except IncomparableError:
        return None
    return np.mean(list(tasks.values()), axis=0) if tasks else None


def resample_tasks(sides: Sequence[Side], names: Sequence[str]) -> dict[str, Floats]:
    """Primary metrics, as they are shown, of some cells on bootstrap samples of the same items.

    Returns:
        task → (resamples, cells)

    Raises:
        IncomparableError: see :func:`pair_items`; a cell lacks a task.
    """
    found = {}
    for index, name in enumerate(names):
        if any(name not in side.record.scores for side in sides):
            raise IncomparableError(f"{name} is not scored everywhere")
        columns = [pair_items(name, sides[0], side)[1] for side in sides]
        means = significance.resampled_means(
            np.stack([items.scores for items in columns], axis=1),
            seed=(significance.SEED, index),
            sizes=columns[0].sizes,
        )
        found[name] = scale(sides[0].record.scores[name]) * columns[0].metric(means)
    return found
