"""How sure a pick is: the same rule on bootstrap samples of the tasks' items.

Times and sizes stay as measured; only scores vary. The items of a task are drawn together for a model's
baseline and all its variants, those of different models apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.compare import averages, significance
from bench.compare.items import IncomparableError, Side, pair_items
from bench.compare.pick import EQUAL, Candidate, Constraint, Pick
from bench.compare.significance import Floats, Interval
from bench.leaderboard.averages import counted
from bench.names import cell_name
from bench.results import Key, Results

Resampled = dict[str, Floats]  # column of the leaderboard → (resamples,)


@dataclass(frozen=True)
class Certainty:
    """Of a chosen variant.

    Attributes:
        rp, average: intervals in percent; unknown without scores of single items.
        holds: constraint → probability that it holds; 0 or 1 where nothing varies.
        picked: cell → share of the resamples in which the rule picks it, largest first; the empty name:
            in which nothing qualifies.
    """

    confidence: float
    rp: Interval | None
    average: Interval | None
    holds: dict[Constraint, float]
    picked: dict[str, float]


def certainty(results: Results, found: Pick, confidence: float) -> Certainty | None:
    """How sure the choice is; ``None`` where no items' scores of the chosen variant can be resampled."""
    resampled = _resampled(results, found.candidates)
    if found.chosen is None or found.chosen.key not in resampled:
        return None
    mine = resampled[found.chosen.key]
    holds = {c: float(_holding(found.chosen, mine, [c]).mean()) for c in found.constraints}
    rp = significance.percentiles(mine["rp"], confidence) if "rp" in mine else None
    average = significance.percentiles(mine["average"], confidence)
    return Certainty(confidence, rp, average, holds, _picked(found, resampled))


def _resampled(results: Results, candidates: Sequence[Candidate]) -> dict[Key, Resampled]:
    found: dict[Key, Resampled] = {}
    intact = {key[0]: key for key in results.cells if not key[1]}
    for model in dict.fromkeys(candidate.key[0] for candidate in candidates):
        keys = [candidate.key for candidate in candidates if candidate.key[0] == model]
        first = intact.get(model, keys[0])
        found |= _of_model(results, first, keys)
    return found


def _of_model(results: Results, first: Key, keys: Sequence[Key]) -> dict[Key, Resampled]:
    """The resampled columns of the cells that were scored on the same items as the first."""
    sides = {key: Side.of(results, key) for key in dict.fromkeys([first, *keys])}
    quality = sides[first].record.scores
    names = list(quality)
    same = {key: side for key, side in sides.items() if _comparable(sides[first], side, names)}
    if first not in same:
        return {}
    tasks = averages.resample_tasks(list(same.values()), names)
    shares = counted(side.record for side in same.values())
    if not shares:
        return {}
    average = np.mean([tasks[name] for name in names if name in shares], axis=0)
    found: dict[Key, Resampled] = {}
    for index, key in enumerate(same):
        columns = {f"task:{name}": tasks[name][:, index] for name in names}
        columns["average"] = average[:, index]
        if not first[1] and bool((average[:, 0] > 0).all()):
            columns["rp"] = 100 * average[:, index] / average[:, 0]
        found[key] = columns
    return found


def _comparable(first: Side, side: Side, names: Sequence[str]) -> bool:
    if set(side.record.scores) != set(names):
        return False
    try:
        for name in names:
            pair_items(name, first, side)
    except IncomparableError:
        return False
    return True


def _holding(candidate: Candidate, resampled: Resampled, constraints: Sequence[Constraint]) -> Floats:
    """Whether all constraints hold, 0 or 1 for each resample."""
    holding = np.ones(significance.RESAMPLES, dtype=bool)
    for constraint in constraints:
        value = candidate.values.get(constraint.column)
        numbers = resampled.get(constraint.column, np.full(1, np.nan if value is None else value))
        holding &= numbers >= constraint.limit if constraint.at_least else numbers <= constraint.limit
    return holding.astype(np.float64)


def _picked(found: Pick, resampled: dict[Key, Resampled]) -> dict[str, float]:
    """Cell → how often the rule picks it, with the quality of each resample."""
    candidates = [c for c in found.candidates if c.key in resampled]
    quality = np.stack([resampled[c.key]["average"] for c in candidates])
    admissible = np.stack([_holding(c, resampled[c.key], found.constraints) for c in candidates]) > 0
    objective = -quality
    if found.prefer != "quality":
        known = [np.inf if c.objective is None else c.objective for c in candidates]
        objective = np.broadcast_to(np.array(known)[:, None], quality.shape)
    smallest = np.where(admissible, objective, np.inf).min(axis=0)
    bound = smallest * (EQUAL if found.prefer == "latency" else 1)
    first = np.where(admissible & (objective <= bound), quality, -np.inf).argmax(axis=0)
    winners = np.where(admissible.any(axis=0), first, -1)
    shares = {
        cell_name(*candidates[index].key) if index >= 0 else "": float(np.mean(winners == index))
        for index in (-1, *range(len(candidates)))
    }
    return dict(sorted(((n, s) for n, s in shares.items() if s > 0), key=lambda item: -item[1]))
