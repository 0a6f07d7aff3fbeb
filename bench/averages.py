"""The average of a cell and what it is relative to, the same rule for records and for published rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.records import Record
from bench.table import Value


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, as Avg-acc is defined in appendix A.1 of arXiv 2505.02819."""
    return math.fsum(values) / len(values)


def relative(part: float | None, whole: float | None) -> float | None:
    """RP in percent: an average relative to the baseline's; unknown where one of them is."""
    return 100 * part / whole if part is not None and whole else None


def average(record: Record) -> Value:
    """Mean of the primary metrics in percent over the tasks that count, with its standard error.

    The error is √(Σ sᵢ²)/k for k tasks; unknown where one task's is.
    """
    primary = [task.metrics.get(task.primary) for task in record.quality.values() if task.average]
    values = [metric.value for metric in primary if metric and metric.value is not None]
    failed = any(failure.stage.startswith("score") for failure in record.failures)
    if not primary or failed or len(values) < len(primary):
        return Value()
    errors = [metric.stderr for metric in primary if metric and metric.stderr is not None]
    known = len(errors) == len(primary)
    stderr = 100 * math.hypot(*errors) / len(errors) if known else None
    return Value(100 * mean(values), stderr)
