"""Paired comparison of scores: their tests, and the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.compare import power, significance
from bench.compare.comparison import Change, Marker, Options, Verdict
from bench.compare.items import Side, name_value, pair_items, scale
from bench.compare.significance import Floats, OneSided
from bench.leaderboard.averages import is_share
from bench.records import Record
from bench.results import Key


@dataclass(frozen=True)
class Score:
    """A pair of scores to be tested, with its verdict as far as it is known before Holm."""

    draft: Verdict
    differences: Floats
    binary: bool
    p: OneSided

    @property
    def changed(self) -> int:
        """How many items have another score than they had."""
        return int(np.count_nonzero(self.differences))


def score(key: Key, name: str, base: Side, new: Side) -> Score:
    """A cell's primary metric on one task, on both sides.

    Raises:
        IncomparableError: see :func:`pair_items`.
    """
    old, fresh = pair_items(name, base, new)
    differences = fresh.scores - old.scores
    binary = all(np.isin(items.scores, (0, 1)).all() for items in (old, fresh))
    losses, gains = int((differences < 0).sum()), int((differences > 0).sum())
    size = differences.size
    if binary:
        test, p = "exact McNemar", significance.mcnemar(losses, gains)
        interval = significance.difference_of_shares(losses, gains, size)
    else:
        test, p = "sign-flip permutation", significance.sign_flip(differences)
        interval = significance.mean_difference(differences, sizes=old.sizes)
    tasks = [side.record.scores[name] for side in (base, new)]
    values = [task.metrics[task.primary].value for task in tasks]
    factor, unit = scale(tasks[0]), "%" if is_share(tasks[0]) else ""
    change = Change(100 * float(differences.mean()), 100 * interval.low, 100 * interval.high)
    draft = Verdict(
        key=key,
        kind="score",
        what=name,
        marker=Marker.SAME,
        metric=tasks[0].primary,
        unit=unit,
        base=None if values[0] is None else factor * values[0],
        new=None if values[1] is None else factor * values[1],
        change=change,
        items=size,
        losses=losses,
        gains=gains,
        test=test,
        notes=_notes(name, base.record, new.record),
    )
    return Score(draft, differences, binary, p)


def _notes(name: str, base: Record, new: Record) -> tuple[str, ...]:
    """What differs without making scores incomparable: the precision they were computed in."""
    types = [record.scores[name].dtype for record in (base, new)]
    known = [
        dtype or (record.prune.dtype if record.prune else None)
        for dtype, record in zip(types, (base, new), strict=True)
    ]
    return (
        () if known[0] == known[1] else (f"computed in {name_value(known[0])} → {name_value(known[1])}",)
    )


def judge(scores: Sequence[Score], options: Options) -> list[Verdict]:
    """The verdicts, by Holm over all scores of the comparison, each direction by itself."""
    worse = significance.holm([score.p.worse for score in scores])
    better = significance.holm([score.p.better for score in scores])
    level = options.alpha / max(1, len(scores))
    return [
        _judge(score, p_worse, p_better, level, options)
        for score, p_worse, p_better in zip(scores, worse, better, strict=True)
    ]


def _judge(score: Score, worse: float, better: float, level: float, options: Options) -> Verdict:
    draft, change = score.draft, score.draft.change
    assert change is not None
    down, up = worse <= options.alpha, better <= options.alpha
    allowed = -change.value <= options.max_drop
    regression = down and not allowed
    needed = None if regression or up else _items_needed(score, down, level, options.max_drop)
    marker = Marker.SAME if needed is None else Marker.INCONCLUSIVE
    if down or up:
        marker = Marker.WORSE if down else Marker.BETTER
    past = ("its interval reaches past --max-drop",) if down and needed else ()
    return replace(
        draft,
        marker=marker,
        regression=regression,
        inconclusive=needed is not None,
        reason="within --max-drop" if down and allowed else None,
        p_worse=worse,
        p_better=better,
        detectable=_detectable(score, level),
        items_needed=needed,
        notes=(*draft.notes, *past),
    )


def _detectable(score: Score, level: float) -> float | None:
    if score.binary:
        drop = power.detectable_share(score.differences.size, score.changed, level)
    else:
        drop = power.detectable_mean(score.differences, level)
    return None if drop is None else 100 * drop


def _items_needed(score: Score, down: bool, level: float, max_drop: float) -> int | None:
    """How many items would decide whether a score dropped by more than allowed; ``None`` where it is.

    Without a margin that would be no number at all, as an interval always reaches a little past 0; and
    where every item has the score that it had, nothing was lost, whatever an interval says.

    Args:
        down: whether it is significantly worse, within what is allowed. Then that the test finds a drop
            says nothing about its size, and the interval alone decides.
    """
    change, items = score.draft.change, score.differences.size
    assert change is not None
    assert change.low is not None
    if not max_drop or not score.changed or -change.low <= max_drop:
        return None
    if down:
        return power.items_for_interval(items, -change.value, -change.low, max_drop)
    if score.binary:
        needed = power.items_for_share(items, score.changed, max_drop / 100, level)
    else:
        needed = power.items_for_mean(score.differences, max_drop / 100, level)
    return needed if needed > items else None
