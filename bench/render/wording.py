"""What several formats say alike about a table: its marks, its failures, what is quoted."""

from __future__ import annotations

from bench.leaderboard.table import Mark, Row, Table

QUOTED = "Quoted, not measured here"
LEGENDS: dict[Mark, str] = {
    "star": "★: best avg of its cut",
    "bold": "bold: best of its cut in each column",
}
APART = ", of what was trained and of what was not"


def legend(table: Table, default: Mark) -> list[str]:
    """The sentence about how the best are marked, where any is."""
    mark = table.mark or default
    marked = any(
        row.best if mark == "star" else any(value.best for value in row.values.values())
        for row in table.rows
    )
    return [f"{LEGENDS[mark]}{APART * table.apart}."] if marked and mark in LEGENDS else []


def signs(row: Row, mark: Mark) -> list[str]:
    """The signs behind a label: failed, best, not to be trusted."""
    if row.failure:
        return ["✗"]
    return ["★"] * (row.best and mark == "star") + ["!"] * bool(row.warning)


def failures(rows: list[Row]) -> list[str]:
    return [f"✗ {name(row)}: {row.failure}" for row in rows if row.failure]


def name(row: Row) -> str:
    return f"{row.label} at {row.layers}" if row.layers else row.label


def quotation(table: Table) -> str:
    """The heading of a quoted table."""
    return f"{QUOTED}: {table.title}. From {table.source}."
