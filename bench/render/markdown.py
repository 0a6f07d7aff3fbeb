"""Leaderboard as Markdown tables, one per model."""

from bench.leaderboard import Column, Group, Row, Table, show


def render(table: Table) -> str:
    parts = [_group(group, table.columns) for group in table.groups]
    if table.notes:
        parts.append("\n".join(f"- {_escape(note)}" for note in table.notes))
    return "\n\n".join(parts) + "\n"


def _group(group: Group, columns: list[Column]) -> str:
    heads = [f"{c.header} ({c.unit})" if c.unit else c.header for c in columns]
    aligned = ["---" if c.key in ("label", "block") else "---:" for c in columns]
    lines = [f"**{_escape(group.title)}**", "", _line(heads), _line(aligned)]
    lines += [_line(_cells(row, columns)) for row in group.rows]
    lines += [
        f"\nfailed: {row.values['label'].text} at {row.layers}: {_escape(row.failure)}"
        for row in group.rows
        if row.failure
    ]
    return "\n".join(lines)


def _cells(row: Row, columns: list[Column]) -> list[str]:
    cells = [_escape(show(row.values[column.key], column)) for column in columns]
    if row.best:
        cells[0] = f"**{cells[0]}** ★"
    if row.failure:
        cells[0] += " ✗"
    return cells


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
