"""Which columns a table shows, how it is sorted and grouped: pure functions from table to table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from bench.leaderboard.table import Column, Group, Row, Table
from bench.names import DEMO
from replaceme.errors import InputError, nearest

Grouping = Literal["model", "layers", "solver", "none"]
PAPER = ("label", "layers", "training_free", "task", "ppl", "average", "rp")


def with_columns(table: Table, keys: Sequence[str]) -> Table:
    """The table with these columns in this order; what is not named can still be asked for later.

    A key is that of a column, or stands for all of a kind (``task``: every ``task:NAME``), or is the
    name of a task.

    Raises:
        InputError: an unknown key, with the nearest and all that are allowed.
    """
    every = [*table.columns, *table.spare]
    columns = list(dict.fromkeys(column for key in keys for column in _named(key, every, "--columns")))
    if not columns:
        raise InputError("--columns names no column; name one at least, such as label.")
    spare = [c for c in every if c not in columns]
    return replace(table, columns=columns, spare=spare, chosen=True)


def as_in_the_paper(table: Table) -> Table:
    """The columns of the paper's tables: method, tasks, perplexity, Avg-acc, RP, training-free."""
    if not table.groups:
        return table
    kinds = {column.kind for column in [*table.columns, *table.spare]}
    return with_columns(table, [kind for kind in PAPER if kind in kinds])


def sorted_by(table: Table, key: str) -> Table:
    """Every group's rows in order of a column, ascending, with ``-`` before the key descending.

    Unknown and noisy values come last either way.

    Raises:
        InputError: an unknown key, or one that stands for several columns.
    """
    descending, name = key.startswith("-"), key.removeprefix("-")
    columns = _named(name, [*table.columns, *table.spare], "--sort")
    if len(columns) > 1:
        keys = ", ".join(column.key for column in columns)
        raise InputError(f"--sort: {name} stands for several columns; name one of {keys}.")
    groups = [replace(g, rows=_ordered(g.rows, columns[0], descending)) for g in table.groups]
    return replace(table, groups=groups)


def grouped(table: Table, by: Grouping) -> Table:
    """The rows in other groups; those of different places (devices, folders) stay apart."""
    if by == "model":
        return table
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for group in table.groups:
        for row in group.rows:
            groups.setdefault((_title(row, by), group.place, group.folder), []).append(row)
    order = sorted(groups, key=lambda key: _cut(groups[key])) if by == "layers" else list(groups)
    made = [Group(key[0], groups[key], *key[1:]) for key in order]
    several = len({row.model for row in table.rows}) > 1
    model = [column for column in table.spare if column.key == "model" and several]
    spare = [column for column in table.spare if column not in model]
    return replace(table, groups=made, columns=[*model, *table.columns], spare=spare)


def _named(key: str, columns: list[Column], option: str) -> list[Column]:
    tests: list[Callable[[Column], bool]] = [
        lambda column: column.key == key,
        lambda column: column.kind == key,
        lambda column: column.key in (f"task:{key}", f"task:{DEMO}{key}"),
    ]
    for test in tests:
        if found := [column for column in columns if test(column)]:
            return found
    allowed = list(dict.fromkeys(name for column in columns for name in (column.kind, column.key)))
    hint = nearest(key, allowed)
    raise InputError(f"{option}: there is no column {key!r}{hint} Columns are {', '.join(allowed)}.")


def _ordered(rows: list[Row], column: Column, descending: bool) -> list[Row]:
    """Numbers by size and texts by alphabet; what is unknown, last."""

    def key(row: Row) -> tuple[float, str]:
        value = row.values[column.key]
        return value.ranked or 0.0, value.text or ""

    unknown = [row for row in rows if _unknown(row, column)]
    known = [row for row in rows if not _unknown(row, column)]
    return sorted(known, key=key, reverse=descending) + unknown


def _unknown(row: Row, column: Column) -> bool:
    value = row.values[column.key]
    return value.ranked is None and value.text is None


def _title(row: Row, by: Grouping) -> str:
    if by == "none":
        return ""
    if by == "solver":
        return row.label
    if not row.layers:
        return "intact"
    return "1 layer removed" if row.layers == 1 else f"{row.layers} layers removed"


def _cut(rows: list[Row]) -> int:
    return rows[0].layers or 0
