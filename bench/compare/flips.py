"""Whether more answers differ from the intact model's than before.

An item of a cell is flipped where its chosen answer is not the one that the intact model of the same
result set chose. Which items are flipped is known of both sides, so the change is paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from bench.changes import list_flipped
from bench.compare import significance
from bench.compare.comparison import Change, Marker, Options, Verdict
from bench.compare.items import IncomparableError, Side, list_tasks_asked_alike
from bench.compare.significance import OneSided
from bench.results import Key

Pair = tuple[Side, Side]


def compare_flips(pairs: Mapping[Key, Pair], options: Options) -> list[Verdict]:
    """Verdicts on the flips of all tasks of which both sides know them, by Holm over these alone.

    None is a regression: an answer that changes may get right, and whether answers get wrong is what
    scores are tested for.

    Args:
        pairs: cell → its records and samples in BASE and NEW, those of intact models among them.
    """
    drafts = list(_list_drafts(pairs))
    more = significance.holm([p.worse for _, p in drafts])
    fewer = significance.holm([p.better for _, p in drafts])
    return [
        replace(draft, marker=_mark(up, down, options.alpha), p_worse=up, p_better=down)
        for (draft, _), up, down in zip(drafts, more, fewer, strict=True)
    ]


def _mark(more: float, fewer: float, alpha: float) -> Marker:
    if more <= alpha:
        return Marker.WORSE
    return Marker.BETTER if fewer <= alpha else Marker.SAME


def _list_drafts(pairs: Mapping[Key, Pair]) -> Iterator[tuple[Verdict, OneSided]]:
    intact = {key[0]: pair for key, pair in pairs.items() if not key[1]}
    for key, (base, new) in pairs.items():
        if not key[1] or key[0] not in intact:
            continue
        for name in base.record.scores:
            flipped = _pair_flips(name, (base, new), intact[key[0]])
            if flipped:
                yield _draft(key, name, base.record.scores[name].primary, flipped)


def _pair_flips(name: str, pair: Pair, intact: Pair) -> list[tuple[bool, bool]]:
    """Of each item, whether it is flipped in BASE and in NEW; empty where that is not known."""
    if any(name not in side.record.scores for side in pair):
        return []
    try:
        tasks = list_tasks_asked_alike(name, *pair)
    except IncomparableError:  # which the score's verdict tells
        return []
    metric, flips = pair[0].record.scores[name].primary, []
    for task in tasks:
        before, after = (_of_side(task, metric, *sides) for sides in zip(pair, intact, strict=True))
        if before is None or after is None or before.keys() != after.keys():
            return []
        flips += [(before[doc], after[doc]) for doc in before]
    return flips


def _of_side(task: str, metric: str, cell: Side, intact: Side) -> dict[str, bool] | None:
    """Item → whether it is flipped; ``None`` where one of the two was asked something else."""
    own, other = cell.record.quality[task], intact.record.quality.get(task)
    if other is None or cell.record.identity.model != intact.record.identity.model:
        return None
    if (own.identity, own.requests) != (other.identity, other.requests):
        return None
    return list_flipped(intact.samples.get(task, {}), cell.samples.get(task, {}), metric)


def _draft(key: Key, name: str, metric: str, flips: list[tuple[bool, bool]]) -> tuple[Verdict, OneSided]:
    """A verdict as far as it is known before Holm; a newly flipped item is a loss."""
    items = len(flips)
    losses = sum(after and not before for before, after in flips)
    gains = sum(before and not after for before, after in flips)
    shares = [100 * sum(side) / items for side in zip(*flips, strict=True)]
    interval = significance.difference_of_shares(gains, losses, items)  # of more flips, not of gains
    draft = Verdict(
        key=key,
        kind="flips",
        what=f"{name} flips",
        marker=Marker.SAME,
        metric=metric,
        unit="%",
        base=shares[0],
        new=shares[1],
        change=Change(shares[1] - shares[0], 100 * interval.low, 100 * interval.high),
        items=items,
        losses=losses,
        gains=gains,
        test="exact McNemar",
    )
    return draft, significance.mcnemar(losses, gains)
