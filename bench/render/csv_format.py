"""Leaderboard as CSV: one line per cell, full precision, unknown left empty."""

import csv
import io

from bench.leaderboard import Column, Row, Table


def render(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = ["model"]
    for column in table.columns:
        name = f"{column.key} ({column.unit})" if column.unit else column.key
        heads += [name, f"{column.key} stderr"] if _has_stderr(table, column) else [name]
    writer.writerow([*heads, "best", "failure"])
    for group in table.groups:
        for row in group.rows:
            writer.writerow([group.title.split(" · ")[0], *_fields(table, row)])
    return out.getvalue()


def _fields(table: Table, row: Row) -> list[str]:
    fields = []
    for column in table.columns:
        value = row.values[column.key]
        fields.append(value.text if value.text is not None else _number(value.number))
        if _has_stderr(table, column):
            fields.append(_number(value.stderr))
    return [*fields, "yes" if row.best else "", row.failure or ""]


def _has_stderr(table: Table, column: Column) -> bool:
    rows = (row for group in table.groups for row in group.rows)
    return any(row.values[column.key].stderr is not None for row in rows)


def _number(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"
