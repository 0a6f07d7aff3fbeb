"""The same items of two cells: which pairs of scores are comparable, and why others are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bench.compare.significance import Floats
from bench.leaderboard.averages import is_share
from bench.records import Group, Record, Task
from bench.results import Key, Results, Samples

CLOSE = 1e-4  # stored scores are rounded


@dataclass(frozen=True)
class Side:
    """One cell of one result set."""

    record: Record
    samples: Samples

    @classmethod
    def of(cls, results: Results, key: Key) -> Side:
        stem = results.cells[key]
        return cls(results.records[stem], results.samples(stem))


@dataclass(frozen=True)
class Items:
    """Scores of the items of a task, in the order of their ids; higher is better.

    Attributes:
        link: what makes the metric of the mean score: ``mean``; ``minus`` where lower is better; or
            ``exp`` for a perplexity, which is exp(−mean) of log-likelihoods.
        sizes: of the tasks of a group, whose items stand one after the other; those of a group that
            counts all tasks the same are multiplied, so that their mean is the group's score.
    """

    ids: tuple[str, ...]
    scores: Floats
    link: Literal["mean", "minus", "exp"]
    sizes: tuple[int, ...] = ()

    def metric(self, mean: Floats) -> Floats:
        if self.link == "exp":
            return np.exp(-mean)
        return mean if self.link == "mean" else -mean


def scale(task: Task | Group) -> float:
    """What a task's primary metric is shown times: percent for a share of 1."""
    return 100.0 if is_share(task) else 1.0


class IncomparableError(Exception):
    """Why two values say nothing about each other."""


def items_of(task: Task, columns: dict[str, list[Any]] | None, side: str, name: str) -> Items:
    """The items' scores of one of a task's metrics.

    Raises:
        IncomparableError: they are not stored, or the metric is no function of their mean.
    """
    metric, columns = task.metrics[name], columns or {}
    values, ids = columns.get(name), [str(number) for number in columns.get("doc_id", ())]
    if not values:
        raise IncomparableError(f"{side} has no {name} of single items")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise IncomparableError(f"{name} of some items of {side} is not a finite number")
    scores = np.asarray(values, dtype=np.float64)
    if len(ids) != scores.size or len(set(ids)) < len(ids):
        raise IncomparableError(f"{side} has not one {name} for each item")
    if metric.higher_is_better is None:
        raise IncomparableError(f"whether a higher {name} is better is unknown")
    order = sorted(range(len(ids)), key=lambda index: ids[index])
    scores, mean = scores[order], float(scores.mean())
    value = math.nan if metric.value is None else metric.value
    found = tuple(ids[index] for index in order)
    if math.isclose(mean, value, rel_tol=CLOSE, abs_tol=CLOSE):
        if metric.higher_is_better:
            return Items(found, scores, "mean")
        return Items(found, -scores, "minus")
    if not metric.higher_is_better and math.isclose(math.exp(-min(mean, 0)), value, rel_tol=10 * CLOSE):
        return Items(found, scores, "exp")
    raise IncomparableError(f"{name} of {side} is not the mean of its items' scores")


def pair_items(name: str, base: Side, new: Side) -> tuple[Items, Items]:
    """The same items of a task or group on both sides; those of a group's tasks are pooled.

    Raises:
        IncomparableError: what was asked differs.
    """
    tasks = list_tasks_asked_alike(name, base, new)
    old, fresh = base.record.scores[name], new.record.scores[name]
    pairs = {task: _pair_task(task, old.primary, base, new) for task in tasks}
    if not isinstance(old, Group) or not isinstance(fresh, Group):
        return pairs[name]
    return (
        _pool(old, {name: pair[0] for name, pair in pairs.items()}, "BASE"),
        _pool(fresh, {name: pair[1] for name, pair in pairs.items()}, "NEW"),
    )


def list_tasks_asked_alike(name: str, base: Side, new: Side) -> list[str]:
    """The tasks that a score is made of: itself, or those of a group that have its metric.

    Raises:
        IncomparableError: what was asked differs.
    """
    old, fresh = base.record.scores[name], new.record.scores[name]
    if isinstance(old, Group) != isinstance(fresh, Group):
        raise IncomparableError("a group of tasks on one side is a single task on the other")
    asked = [("primary metric", old.primary, fresh.primary)]
    tasks = [name]
    if isinstance(old, Group) and isinstance(fresh, Group):
        asked += _list_asked_of_group(old, fresh)
        tasks = [n for n in old.tasks if old.primary in base.record.quality[n].metrics]
    _check_alike(asked)
    for task in tasks:
        if old.primary not in new.record.quality[task].metrics:
            raise IncomparableError(f"NEW has no {old.primary} of {task}")
        _check_alike(_list_asked_of_task(task, base, new))
    return tasks


def _check_alike(asked: Sequence[tuple[str, Any, Any]]) -> None:
    for what, before, after in asked:
        if before != after:
            shown = "" if what.endswith("differ") else f" {name_value(before)} → {name_value(after)}"
            raise IncomparableError(f"{what}{shown}")


def _list_asked_of_group(old: Group, fresh: Group) -> list[tuple[str, Any, Any]]:
    by_size = [group.metrics[group.primary].weight_by_size for group in (old, fresh)]
    return [
        ("group version", old.version, fresh.version),
        ("tasks of the group", sorted(old.tasks), sorted(fresh.tasks)),
        ("weights", by_size[0], by_size[1]),
    ]


def _list_asked_of_task(name: str, base: Side, new: Side) -> list[tuple[str, Any, Any]]:
    old, fresh = base.record.quality[name], new.record.quality[name]
    asked: list[tuple[str, Any, Any]] = [
        ("the model's weights differ", *(_of_model(side.record, "weights") for side in (base, new))),
        ("task version", old.version, fresh.version),
        ("few-shot", old.num_fewshot, fresh.num_fewshot),
        ("limit", old.identity.limit, fresh.identity.limit),
        ("chat template or instruction", old.identity.prompt, fresh.identity.prompt),
        ("the task's data differ", old.identity.data, fresh.identity.data),
    ]
    seeds = (old.identity.seeds, fresh.identity.seeds)
    files = [_of_model(side.record, "files") for side in (base, new)]
    if None not in seeds:  # which old records do not know
        asked.append(("seeds", *seeds))
    if None not in (old.requests, fresh.requests):
        asked.append(("what was asked differs", old.requests, fresh.requests))
    if None not in files:  # likewise
        asked.append(("the model's tokenizer or other files differ", *files))
    return asked


def _pool(group: Group, tasks: dict[str, Items], side: str) -> Items:
    """Items of tasks as one set, whose mean is the group's score."""
    sizes = tuple(items.scores.size for items in tasks.values())
    metric, alike = group.metrics[group.primary], sum(sizes) / len(sizes)
    weights = [1.0 if metric.weight_by_size else alike / size for size in sizes]
    parts = [weight * items.scores for weight, items in zip(weights, tasks.values(), strict=True)]
    links = {items.link for items in tasks.values()}
    scores, value = np.concatenate(parts), math.nan if metric.value is None else metric.value
    found = Items(
        tuple(f"{name}:{number}" for name, items in tasks.items() for number in items.ids),
        scores,
        links.pop(),
        sizes,
    )
    mean = float(found.metric(scores.mean()))
    close = math.isclose(mean, value, rel_tol=CLOSE, abs_tol=CLOSE)
    if links or found.link == "exp" or not close:
        raise IncomparableError(f"{group.primary} of {side} is not the mean of its items' scores")
    return found


def _pair_task(name: str, metric: str, base: Side, new: Side) -> tuple[Items, Items]:
    """The same items of a single task on both sides.

    Raises:
        IncomparableError: they are not the same.
    """
    pair = (
        items_of(base.record.quality[name], base.samples.get(name), "BASE", metric),
        items_of(new.record.quality[name], new.samples.get(name), "NEW", metric),
    )
    if pair[0].ids != pair[1].ids:
        only = [len(set(a.ids) - set(b.ids)) for a, b in (pair, pair[::-1])]
        raise IncomparableError(f"the items differ: {only[0]} only in BASE, {only[1]} only in NEW")
    return pair


def _of_model(record: Record, key: str) -> Any:
    return getattr(record.identity.model, key)


def name_value(value: Any) -> str:
    """A setting as a sentence names it; one that is not set is ``none``."""
    return "none" if value is None else str(value)
