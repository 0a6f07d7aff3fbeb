"""The score of a group: lm-eval's own aggregation of its tasks' scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lm_eval.api import group as lm_eval_group

from bench import records
from bench.scoring.metrics import primary_metric
from bench.tasks import task_yaml
from replaceme.errors import InputError

if TYPE_CHECKING:
    from bench.tasks.planned import PlannedGroup

T = TypeVar("T")


class _Task:
    """What lm-eval's group asks its tasks for."""

    def __init__(self, name: str) -> None:
        self.task_name = name


class _Group(lm_eval_group.Group):
    """lm-eval's group, of tasks that are scored already."""

    names: list[str]

    def get_all_tasks(self, recursive: bool = True) -> list[Any]:  # noqa: ARG002
        return [_Task(name) for name in self.names]


def aggregate(wanted: PlannedGroup, quality: Mapping[str, records.Task]) -> records.Group:
    """A group's scores, from those of all its tasks.

    Raises:
        InputError: its tasks report none of its metrics, or not the one that the suite names.
    """
    names = [task.name for task in wanted.tasks]
    said = task_yaml.load_functions([dict(metric) for metric in wanted.group.aggregation])
    group = _Group.from_config({"group": wanted.name, "aggregate_metric_list": said})
    group.names = names
    tasks = {name: quality[name] for name in names}
    found: dict[str, Any] = dict(group.aggregate({name: _as_lm_eval(t) for name, t in tasks.items()}))
    metrics = {}
    for key, value in found.items():
        metric, _, chain = key.partition(",")
        if chain and not metric.endswith("_stderr"):
            label, stderr = metric if chain == "none" else key, found[f"{metric}_stderr,{chain}"]
            reported = [task.metrics[label] for task in tasks.values() if label in task.metrics]
            metrics[label] = records.GroupMetric(
                value=float(value),
                stderr=None if stderr == "N/A" else float(stderr),
                higher_is_better=_common([metric.higher_is_better for metric in reported]),
                weight_by_size=_by_size(group, metric, chain),
            )
    if not metrics:
        asked = ", ".join(metric["metric"] for metric in said)
        raise InputError(f"no task of the group {wanted.name!r} reports what it aggregates: {asked}.")
    return records.Group(
        identity=wanted.identity,
        primary=primary_metric(wanted.spec, metrics),
        average=wanted.spec.average,
        column=wanted.column,
        metrics=metrics,
        members=[member.name for member in wanted.group.members],
        tasks=names,
        items=found["sample_len"],
        version=wanted.group.version,
        num_fewshot=_common([quality[name].num_fewshot for name in names]),
        dtype=_common([quality[name].dtype for name in names]),
    )


def _by_size(group: _Group, name: str, chain: str) -> bool:
    """Whether larger tasks count more in one of a group's metrics."""
    said = [m for m in group.aggregate_metric_list or [] if m.metric == name]
    return [m.weight_by_size for m in said if m.filter_list is None or chain in m.filter_list][-1]


def _as_lm_eval(task: records.Task) -> dict[str, Any]:
    """A task's scores under lm-eval's names."""
    found: dict[str, Any] = {"sample_len": task.items}
    for label, metric in task.metrics.items():
        name, _, chain = label.partition(",")
        key = chain or "none"
        found[f"{name},{key}"] = math.nan if metric.value is None else metric.value
        found[f"{name}_stderr,{key}"] = "N/A" if metric.stderr is None else metric.stderr
    return found


def _common(values: Sequence[T]) -> T | None:
    """The value that all have."""
    return values[0] if len(set(values)) == 1 else None
