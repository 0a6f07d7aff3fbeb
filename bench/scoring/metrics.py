"""Which of a task's metrics counts."""

from __future__ import annotations

from typing import Any

from bench.tasks.spec import TaskSpec
from replaceme.errors import InputError

PREFERRED = ("acc_norm", "acc", "exact_match")


def primary_metric(task: TaskSpec, metrics: dict[str, Any]) -> str:
    """The metric that counts: the one the suite names, else the first of ``PREFERRED`` reported.

    A name without a filter stands for the first filter that the task reports it with.

    Raises:
        InputError: the task does not report the metric that the suite names.
    """
    reported: dict[str, str] = {}
    for key in metrics:
        reported.setdefault(key.partition(",")[0], key)
    if task.metric:
        if found := task.metric if task.metric in metrics else reported.get(task.metric):
            return found
        raise InputError(
            f"task {task.task!r} does not report the metric {task.metric!r}; it reports "
            f"{', '.join(metrics)}."
        )
    return next((reported[name] for name in PREFERRED if name in reported), next(iter(metrics)))
