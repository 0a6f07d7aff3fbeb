"""The average of a cell and what it is relative to, the same rule for records and for published rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from bench.leaderboard.table import Value
from bench.records import Group, Record, Task

UNBOUNDED = ("perplexity", "bits_per_byte", "bleu", "chrf", "rouge", "likelihood")


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, as Avg-acc is defined in appendix A.1 of arXiv 2505.02819."""
    return math.fsum(values) / len(values)


def relative(part: float | None, whole: float | None) -> float | None:
    """RP in percent: an average relative to the baseline's; unknown where one of them is."""
    return 100 * part / whole if part is not None and whole else None


def is_share(task: Task | Group) -> bool:
    """Whether a task's primary metric is a share of 1, of which more is better, such as an accuracy.

    Others (perplexities, bits per byte, scores of 0 to 100 such as BLEU, error rates) are shown as they
    are, and are in no average, where they would outweigh everything or count the wrong way.
    """
    metric, name = task.metrics[task.primary], task.primary.partition(",")[0].lower()
    if metric.higher_is_better is False or any(word in name for word in UNBOUNDED):
        return False
    return metric.value is None or -1 <= metric.value <= 1


def counted(records: Iterable[Record]) -> set[str]:
    """The tasks that are in the average of some records: those that count and are shares in all."""
    tasks = [(name, task) for record in records for name, task in record.scores.items()]
    others = {name for name, task in tasks if not is_share(task)}
    return {name for name, task in tasks if task.average} - others


def average(record: Record, tasks: set[str] | None = None) -> Value:
    """Mean of the primary metrics in percent over the tasks that count, with its standard error.

    The error is √(Σ sᵢ²)/k for k tasks; unknown where one task's is.

    Args:
        tasks: those that count; ``None``: as :func:`counted` says of this record alone.
    """
    if tasks is None:
        tasks = counted([record])
    primary = [task.metrics.get(task.primary) for name, task in record.scores.items() if name in tasks]
    values = [metric.value for metric in primary if metric and metric.value is not None]
    failed = any(failure.stage.startswith("score") for failure in record.failures)
    if not primary or failed or len(values) < len(primary):
        return Value()
    errors = [metric.stderr for metric in primary if metric and metric.stderr is not None]
    known = len(errors) == len(primary)
    stderr = 100 * math.hypot(*errors) / len(errors) if known else None
    return Value(100 * mean(values), stderr)
