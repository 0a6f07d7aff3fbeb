"""Paired comparison of scores: which pairs are comparable, their tests, and the averages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from bench.compare import significance
from bench.compare.comparison import Averages, Change, Marker, Options, Verdict
from bench.compare.significance import Floats, OneSided
from bench.leaderboard.averages import average, counted, is_share
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


def paired_items(name: str, base: Side, new: Side) -> tuple[Items, Items]:
    """The same items of a task or group on both sides.

    Raises:
        IncomparableError: what was asked differs.
    """
    old, fresh = base.record.scores[name], new.record.scores[name]
    if isinstance(old, Group) and isinstance(fresh, Group):
        return _paired_group(old, fresh, base, new)
    if isinstance(old, Group) or isinstance(fresh, Group):
        raise IncomparableError("a group of tasks on one side is a single task on the other")
    if old.primary != fresh.primary:
        raise IncomparableError(f"primary metric {old.primary} → {fresh.primary}")
    return _paired_task(name, old.primary, base, new)


def _paired_group(old: Group, fresh: Group, base: Side, new: Side) -> tuple[Items, Items]:
    """The items of all tasks of a group, pooled."""
    asked = [
        ("primary metric", old.primary, fresh.primary),
        ("group version", old.version, fresh.version),
        ("tasks of the group", sorted(old.tasks), sorted(fresh.tasks)),
        ("weights", *(group.metrics[group.primary].weight_by_size for group in (old, fresh))),
    ]
    for what, before, after in asked:
        if before != after:
            raise IncomparableError(f"{what} {_shown(before)} → {_shown(after)}")
    reporting = [n for n in old.tasks if old.primary in base.record.quality[n].metrics]
    pairs = {name: _paired_task(name, old.primary, base, new) for name in reporting}
    return (
        _pooled(old, {name: pair[0] for name, pair in pairs.items()}, "BASE"),
        _pooled(fresh, {name: pair[1] for name, pair in pairs.items()}, "NEW"),
    )


def _pooled(group: Group, tasks: dict[str, Items], side: str) -> Items:
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


def _paired_task(name: str, metric: str, base: Side, new: Side) -> tuple[Items, Items]:
    """The same items of a single task on both sides.

    Raises:
        IncomparableError: what was asked differs, or a side has no such metric.
    """
    old, fresh = base.record.quality[name], new.record.quality[name]
    if metric not in fresh.metrics:
        raise IncomparableError(f"NEW has no {metric} of {name}")
    asked = [
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
    for what, before, after in asked:
        if before != after:
            shown = "" if what.endswith("differ") else f" {_shown(before)} → {_shown(after)}"
            raise IncomparableError(f"{what}{shown}")
    pair = (
        items_of(old, base.samples.get(name), "BASE", metric),
        items_of(fresh, new.samples.get(name), "NEW", metric),
    )
    if pair[0].ids != pair[1].ids:
        only = [len(set(a.ids) - set(b.ids)) for a, b in (pair, pair[::-1])]
        raise IncomparableError(f"the items differ: {only[0]} only in BASE, {only[1]} only in NEW")
    return pair


def _of_model(record: Record, key: str) -> Any:
    return getattr(record.identity.model, key)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


@dataclass(frozen=True)
class Score:
    """A pair of scores to be tested, with its verdict as far as it is known before Holm."""

    draft: Verdict
    differences: Floats
    binary: bool
    p: OneSided


def score(key: Key, name: str, base: Side, new: Side) -> Score:
    """A cell's primary metric on one task, on both sides.

    Raises:
        IncomparableError: see :func:`paired_items`.
    """
    old, fresh = paired_items(name, base, new)
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
    return () if known[0] == known[1] else (f"computed in {_shown(known[0])} → {_shown(known[1])}",)


def judged(scores: Sequence[Score], options: Options) -> list[Verdict]:
    """The verdicts, by Holm over all scores of the comparison, each direction by itself."""
    worse = significance.holm([score.p.worse for score in scores])
    better = significance.holm([score.p.better for score in scores])
    level = options.alpha / max(1, len(scores))
    return [
        _judged(score, p_worse, p_better, level, options)
        for score, p_worse, p_better in zip(scores, worse, better, strict=True)
    ]


def _judged(score: Score, worse: float, better: float, level: float, options: Options) -> Verdict:
    draft = score.draft
    assert draft.change is not None
    if score.binary:
        changed = (draft.losses or 0) + (draft.gains or 0)
        seen = significance.detectable_share(score.differences.size, changed, level)
    else:
        seen = significance.detectable_mean(score.differences, level)
    down = worse <= options.alpha
    marker = Marker.WORSE if down else Marker.BETTER if better <= options.alpha else Marker.SAME
    allowed = -draft.change.value <= options.max_drop
    return replace(
        draft,
        marker=marker,
        regression=down and not allowed,
        reason="within --max-drop" if down and allowed else None,
        p_worse=worse,
        p_better=better,
        detectable=None if seen is None else 100 * seen,
    )


# ---- average and RP


def average_change(
    key: Key, base: Side, new: Side, baselines: tuple[Side, Side] | None
) -> Averages | None:
    """Average and RP on both sides, as in the leaderboard; ``None`` where one is unknown.

    Intervals are a bootstrap over the items of each task, the same items for the cell and its baseline.

    Args:
        baselines: of either side; ``None`` for a baseline itself, or where there are none.
    """
    numbers = [average(side.record).number for side in (base, new)]
    if numbers[0] is None or numbers[1] is None or _counted(base) != _counted(new):
        return None
    rest = tuple(side for side in baselines or () if _counted(side) == _counted(base))
    wholes = [average(side.record).number for side in rest]
    rps = [100 * n / whole for n, whole in zip(numbers, wholes, strict=False) if n is not None and whole]
    resampled = _resampled([base, new, *rest])
    change = rp_change = None
    if resampled is not None:
        change = _change(numbers[1] - numbers[0], resampled[:, 1] - resampled[:, 0])
        if len(rps) == 2 and bool((resampled[:, 2:] > 0).all()):
            relative = 100 * resampled[:, :2] / resampled[:, 2:]
            rp_change = _change(rps[1] - rps[0], relative[:, 1] - relative[:, 0])
    rp = (rps[0], rps[1]) if len(rps) == 2 else None
    return Averages(key, (numbers[0], numbers[1]), change, rp, rp_change)


def _counted(side: Side) -> list[str]:
    """The tasks that count in the average, sorted."""
    return sorted(counted([side.record]))


def _change(value: float, resampled: Floats) -> Change:
    interval = significance.percentiles(resampled)
    return Change(value, interval.low, interval.high)


def _resampled(sides: Sequence[Side]) -> Floats | None:
    """Averages in percent of some cells on bootstrap samples of the same items; (resamples, cells)."""
    try:
        tasks = resampled_tasks(sides, _counted(sides[0]))
    except IncomparableError:
        return None
    return np.mean(list(tasks.values()), axis=0) if tasks else None


def resampled_tasks(sides: Sequence[Side], names: Sequence[str]) -> dict[str, Floats]:
    """Primary metrics, as they are shown, of some cells on bootstrap samples of the same items.

    Returns:
        task → (resamples, cells)

    Raises:
        IncomparableError: see :func:`paired_items`; a cell lacks a task.
    """
    found = {}
    for index, name in enumerate(names):
        if any(name not in side.record.scores for side in sides):
            raise IncomparableError(f"{name} is not scored everywhere")
        columns = [paired_items(name, sides[0], side)[1] for side in sides]
        means = significance.resampled_means(
            np.stack([items.scores for items in columns], axis=1),
            seed=(significance.SEED, index),
            sizes=columns[0].sizes,
        )
        found[name] = scale(sides[0].record.scores[name]) * columns[0].metric(means)
    return found
