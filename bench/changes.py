"""What changed in a variant's answers: flips, which are counted from kept answers, and divergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.records import Flips, Group, Record
from replaceme.facts import Divergence

CHOSEN = "chosen:"  # before a metric, in samples: the column of the answers chosen for it
Columns = dict[str, list[Any]]


def count_flips(intact: Columns, own: Columns, metric: str) -> Flips | None:
    """How many items of a task have another chosen answer than the intact model's.

    Args:
        intact, own: a task's columns of samples, of the intact model and of a variant.
        metric: the one whose answers are compared.

    Returns:
        ``None`` where the answers are not kept, or not of the same items.
    """
    flipped = list_flipped(intact, own, metric)
    if flipped is None:
        return None
    changed = [doc for doc, differs in flipped.items() if differs]
    found = Flips(metric=metric, items=len(flipped), changed=len(changed))
    was, now = _judge(intact, metric), _judge(own, metric)
    if was and now:
        found.right_to_wrong = sum(was[doc] and not now[doc] for doc in changed)
        found.wrong_to_right = sum(now[doc] and not was[doc] for doc in changed)
        found.wrong_to_wrong = sum(not was[doc] and not now[doc] for doc in changed)
    return found


def list_flipped(intact: Columns, own: Columns, metric: str) -> dict[str, bool] | None:
    """Item → whether another answer was chosen for it than the intact model's; see
    :func:`count_flips`."""
    key = CHOSEN + metric
    if key not in intact or key not in own:
        return None
    before = dict(zip(map(str, intact["doc_id"]), intact[key], strict=True))
    after = dict(zip(map(str, own["doc_id"]), own[key], strict=True))
    if before.keys() != after.keys() or len(before) < len(intact["doc_id"]):
        return None
    return {doc: before[doc] != after[doc] for doc in before}


def _judge(columns: Columns, metric: str) -> dict[str, bool] | None:
    """Item → whether it is right; ``None`` where the metric says more than right or wrong."""
    scores = columns.get(metric, [])
    if not scores or not set(scores) <= {0, 1}:
        return None
    return dict(zip(map(str, columns["doc_id"]), map(bool, scores), strict=True))


def flips_of(record: Record, name: str) -> Flips | None:
    """Flips of a task by the metric that counts; of a group, over the items of all its tasks."""
    scored = record.scores.get(name) or record.quality.get(name)
    if isinstance(scored, Group):
        parts = [flips_of(record, task) for task in scored.tasks]
        known = [part for part in parts if part]
        return _pool_flips(scored.primary, known) if len(known) == len(parts) else None
    flips = scored.flips if scored else None
    return flips if scored and flips and flips.metric == scored.primary else None


def _pool_flips(metric: str, parts: Sequence[Flips]) -> Flips:
    def total(values: list[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    return Flips(
        metric=metric,
        items=sum(part.items for part in parts),
        changed=sum(part.changed for part in parts),
        right_to_wrong=total([part.right_to_wrong for part in parts]),
        wrong_to_right=total([part.wrong_to_right for part in parts]),
        wrong_to_wrong=total([part.wrong_to_wrong for part in parts]),
    )


def divergence_of(record: Record, name: str) -> Divergence | None:
    """Divergence of a task; of a group, over the predicted tokens of all its tasks, whose 99th
    percentile no task's tells."""
    scored = record.scores.get(name) or record.quality.get(name)
    if not isinstance(scored, Group):
        return scored.divergence if scored else None
    parts = [part for task in scored.tasks if (part := divergence_of(record, task))]
    means = [part.mean for part in parts if part.mean is not None]
    if len(means) < len(scored.tasks):
        return None
    positions = sum(part.positions for part in parts)
    sums = [mean * part.positions for mean, part in zip(means, parts, strict=True)]
    return Divergence(mean=math.fsum(sums) / positions, positions=positions)
