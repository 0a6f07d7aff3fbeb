"""Leaderboard as CSV: one line per cell, full precision, unknown left empty.

``source`` is ``measured``, or says where a quoted row is printed; ``noisy`` names the columns in which a
row's value is noisy. Texts that a spreadsheet would take
for a formula begin with an apostrophe; numbers are plain.
"""

import csv
import io

from bench.leaderboard.table import Column, Row, Table, Value
from bench.render.escape import csv_field

MEASURED = "measured"


def render(table: Table) -> str:
    heads = _heads(table)
    out = io.StringIO()
    writer = csv.DictWriter(out, heads, restval="", lineterminator="\n")
    writer.writerow({head: csv_field(head) for head in heads})
    for part in (table, *table.quoted):
        stderrs = _with_stderr(part)
        writer.writerows(_fields(part, row, stderrs) for row in part.rows)
    return out.getvalue()


def _heads(table: Table) -> list[str]:
    heads = ["model", "source"]
    for part in (table, *table.quoted):
        stderrs = _with_stderr(part)
        for column in part.columns:
            heads += [_name(column), *([_stderr_name(column)] if column.key in stderrs else [])]
    return list(dict.fromkeys([*heads, "best", "noisy", "warning", "failure"]))


def _name(column: Column) -> str:
    return f"{column.key} ({column.unit})" if column.unit else column.key


def _stderr_name(column: Column) -> str:
    return f"{column.key} stderr"


def _fields(table: Table, row: Row, stderrs: set[str]) -> dict[str, str]:
    fields = {}
    for column in table.columns:
        value = row.values[column.key]
        fields[_name(column)] = _field(value)
        if column.key in stderrs:
            fields[_stderr_name(column)] = _number(value.stderr)
    fields |= {"model": csv_field(row.model), "source": csv_field(row.source or MEASURED)}
    noisy = " ".join(row.list_noisy(table.columns))
    fields |= {"best": "yes" if row.best else "", "noisy": csv_field(noisy)}
    return fields | {"warning": csv_field(row.warning or ""), "failure": csv_field(row.failure or "")}


def _field(value: Value) -> str:
    if value.number is not None:
        return value.text or _number(value.number)
    return csv_field(value.text or "")


def _with_stderr(table: Table) -> set[str]:
    """Keys of the columns in which some value has a standard error."""
    keys = [column.key for column in table.columns]
    return {key for row in table.rows for key in keys if row.values[key].stderr is not None}


def _number(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"
