"""Which of a task's metrics counts."""

from __future__ import annotations

from typing import Any

from bench.tasks.spec import TaskSpec
from replaceme.errors import InputError

PREFERRED = ("acc_norm", "acc", "exact_match")


def primary_metric(task: TaskSpec, metrics: dict[str, Any]) -> str:
    """The metric that counts: the one the suite names, else the first of ``PREFERRED`` reported.

    Raises:
        InputError: the task does not report the metric that the suite names.
    """
    if task.metric:
        if task.metric not in metrics:
            raise InputError(
                f"task {task.task!r} does not report the metric {task.metric!r}; it reports "
                f"{', '.join(metrics)}."
            )
        return task.metric
    return next((name for name in PREFERRED if name in metrics), next(iter(metrics)))
