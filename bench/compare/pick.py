"""Which variant to ship under constraints, why, and how sure.

Among the variants that satisfy every constraint the rule takes the fastest, or by ``prefer`` the
smallest or the best. Where times or sizes are equal, as they are for all solvers of one shape, quality
decides. Numbers are the leaderboard's.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.leaderboard import leaderboard
from bench.leaderboard.table import TEXTUAL, Column, Group, Row, Table
from bench.names import cell_name
from bench.results import Key, Results
from replaceme.errors import InputError, nearest

Prefer = Literal["latency", "memory", "quality"]
EQUAL = 1.02  # times that differ by less are equal: engine processes vary by as much


@dataclass(frozen=True)
class Constraint:
    """A bound on a column of the leaderboard, in its unit."""

    column: str
    name: str
    unit: str
    at_least: bool
    limit: float

    def miss(self, value: float | None) -> float | None:
        """By how much a value misses the bound; 0 where it does not, ``None`` where it is unknown."""
        if value is None:
            return None
        return max(0.0, self.limit - value if self.at_least else value - self.limit)

    def __str__(self) -> str:
        return f"{self.name} {'≥' if self.at_least else '≤'} {self.limit:g}{self.unit}"


@dataclass(frozen=True)
class Candidate:
    """A cell with its numbers; ``objective`` is what the rule makes small."""

    key: Key
    values: dict[str, float | None]
    objective: float | None
    warning: str | None

    @property
    def name(self) -> str:
        return cell_name(*self.key)

    @property
    def quality(self) -> float:
        value = self.values.get("average")
        return float("-inf") if value is None else value


@dataclass(frozen=True)
class Near:
    """A variant that does not qualify: constraint → by how much it misses, ``None`` where unknown."""

    candidate: Candidate
    misses: dict[Constraint, float | None]


@dataclass(frozen=True)
class Pick:
    """The answer.

    Attributes:
        rule: columns that the variant to ship is smallest in (by their geometric mean); ``average``:
            it is the best.
        admissible: those that satisfy every constraint, best first.
        binding: constraint → what would be chosen without it, where that is another one.
        nearest: those that do not qualify, nearest first.
        blocking: constraints that no variant satisfies.
        intact: whether the baseline of some model satisfies every constraint.
        noisy: candidates whose latency or speed-up, where it is asked for, counts as unknown: something
            disturbed the measurement.
    """

    constraints: list[Constraint]
    prefer: Prefer
    rule: list[str]
    candidates: list[Candidate]
    admissible: list[Candidate]
    binding: dict[Constraint, Candidate]
    nearest: list[Near]
    blocking: list[Constraint]
    intact: bool
    noisy: list[Candidate]

    @property
    def chosen(self) -> Candidate | None:
        """The variant to ship; ``None``: nothing qualifies."""
        return self.admissible[0] if self.admissible else None


def pick(
    results: Results, constraints: Sequence[Constraint], prefer: Prefer, workload: str | None
) -> Pick:
    """The variant to ship.

    Raises:
        InputError: no pruned cell that did not fail, a constraint on what was not measured, or latencies
            of several places.
    """
    table = leaderboard.build(results.records.values())
    _check(table, constraints, prefer)
    bounded = {constraint.column for constraint in constraints}
    wanted = _list_wanted(table, prefer, workload)
    rule = _rule(table, wanted, prefer)
    rows = [row for row in table.rows if not row.failure]
    pruned = [row for row in rows if row.layers]
    candidates = [_candidate(row, rule) for row in pruned]
    asked = [column for column in table.columns if column in wanted or column.key in bounded]
    if not candidates:
        raise InputError(f"{results.source} has no pruned cell without a failure to pick from.")
    admissible = ranked([c for c in candidates if fits(c, constraints)], prefer)
    return Pick(
        list(constraints),
        prefer,
        rule,
        candidates,
        admissible,
        _binding(candidates, constraints, prefer) if admissible else {},
        _nearest(candidates, constraints),
        [c for c in constraints if not any(fits(candidate, [c]) for candidate in candidates)],
        any(fits(_candidate(row, rule), constraints) for row in rows if not row.layers),
        [c for c, row in zip(candidates, pruned, strict=True) if row.list_noisy(asked)],
    )


def _binding(
    candidates: Sequence[Candidate], constraints: Sequence[Constraint], prefer: Prefer
) -> dict[Constraint, Candidate]:
    """What would be chosen without each constraint, where that is another one."""

    def first(kept: Sequence[Constraint]) -> Candidate:
        return ranked([c for c in candidates if fits(c, kept)], prefer)[0]

    chosen = first(constraints)
    without = {c: first([other for other in constraints if other is not c]) for c in constraints}
    return {constraint: found for constraint, found in without.items() if found is not chosen}


def ranked(candidates: Sequence[Candidate], prefer: Prefer) -> list[Candidate]:
    """Smallest objective first; the best quality first among those that are equal in it."""
    left, found = list(candidates), []
    while left:
        bound = min(map(_objective, left)) * (EQUAL if prefer == "latency" else 1)
        first = max((c for c in left if _objective(c) <= bound), key=lambda c: c.quality)
        found.append(first)
        left.remove(first)
    return found


def _objective(candidate: Candidate) -> float:
    return float("inf") if candidate.objective is None else candidate.objective


def fits(candidate: Candidate, constraints: Sequence[Constraint]) -> bool:
    return all(c.miss(candidate.values.get(c.column)) == 0 for c in constraints)


def _candidate(row: Row, rule: Sequence[str]) -> Candidate:
    values = {key: value.ranked for key, value in row.values.items() if key not in TEXTUAL}
    parts = [value for column in rule if (value := values.get(column)) is not None]
    objective = None
    if len(parts) == len(rule):
        if rule == ["average"]:
            objective = -parts[0]
        elif min(parts) > 0:
            objective = statistics.geometric_mean(parts)
    return Candidate((row.model, row.layers or 0, row.label), values, objective, row.warning)


def _list_wanted(table: Table, prefer: Prefer, workload: str | None) -> list[Column]:
    """The columns that the variant to ship should be smallest in."""
    kinds = {"quality": "average", "memory": "weights", "latency": f"latency:{workload or ''}"}
    return [column for column in table.columns if column.key.startswith(kinds[prefer])]


def _rule(table: Table, wanted: Sequence[Column], prefer: Prefer) -> list[str]:
    """Those of which a value is known; parameters where nothing was served, or all of it is noisy."""
    if prefer == "quality":
        return ["average"]
    keys = [column.key for column in wanted]
    known = [key for key in keys if any(row.values[key].ranked is not None for row in table.rows)]
    return known or ["parameters"]


def _check(table: Table, constraints: Sequence[Constraint], prefer: Prefer) -> None:
    columns = {column.key for column in table.columns}
    for constraint in constraints:
        if constraint.column not in columns:
            tasks = [key.removeprefix("task:") for key in sorted(columns) if key.startswith("task:")]
            kind, _, task = constraint.column.partition(":")
            hint = f"{nearest(task, tasks)[:-1]}; tasks: {', '.join(tasks)}." if kind == "task" else "."
            raise InputError(f"{constraint}: these results have no {constraint.name}{hint}")
    shares = {column.key for column in table.columns if column.unit == "%"}
    for constraint in constraints:
        if constraint.column.startswith("task:") and constraint.column not in shares:
            raise InputError(
                f"{constraint}: the metric of {constraint.name} is no share of 1; --min-task bounds "
                f"shares alone."
            )
    places = list(dict.fromkeys(group.place for group in table.groups if _served(group)))
    timed = prefer == "latency" or any(c.column.startswith("latency") for c in constraints)
    if timed and len(places) > 1:
        raise InputError(
            f"the latencies are not of one engine and device: {'; '.join(places)}; pick from a folder "
            f"with one, or --prefer memory or quality without --max-latency."
        )


def _served(group: Group) -> bool:
    return any(
        value.number is not None
        for row in group.rows
        for key, value in row.values.items()
        if key.startswith("latency:")
    )


def _nearest(candidates: Sequence[Candidate], constraints: Sequence[Constraint]) -> list[Near]:
    """The candidates that do not qualify, by their misses relative to the bounds; unknown is far."""

    def distance(near: Near) -> float:
        return sum(
            float("inf") if miss is None else miss / (abs(constraint.limit) or 1)
            for constraint, miss in near.misses.items()
        )

    found = []
    for candidate in candidates:
        misses = {c: c.miss(candidate.values.get(c.column)) for c in constraints}
        if misses := {c: miss for c, miss in misses.items() if miss != 0}:
            found.append(Near(candidate, misses))
    return sorted(found, key=distance)


def latency_column(results: Results, workload: str | None) -> str:
    """The leaderboard's column of a workload's latency.

    Raises:
        InputError: nothing was served, no such workload, or several to choose from.
    """
    columns = leaderboard.build(results.records.values()).columns
    labels = [c.key.removeprefix("latency:") for c in columns if c.key.startswith("latency:")]
    if not labels:
        raise InputError(f"{results.source} has no latencies: its suite serves nothing.")
    if workload is None and len(labels) > 1:
        raise InputError(f"--max-latency needs --workload: one of {', '.join(labels)}.")
    if workload is not None and workload not in labels:
        raise InputError(
            f"--workload {workload!r} was not measured{nearest(workload, labels)[:-1]}; there are "
            f"{', '.join(labels)}."
        )
    return f"latency:{workload or labels[0]}"
