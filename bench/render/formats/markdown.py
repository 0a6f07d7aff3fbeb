"""Leaderboard as Markdown tables, one per group, and what is quoted after them."""

from bench.leaderboard.table import Column, Group, Mark, Row, Table, show
from bench.render.escape import markdown as escape
from bench.render.wording import QUOTED, failures, legend, signs

SUFFIX = "md"


def render(table: Table) -> str:
    parts = [*_parts(table)]
    for quoted in table.quoted:
        parts.append(f"**{escape(f'{QUOTED}: {quoted.title}.')}** {escape(f'From {quoted.source}.')}")
        parts += _parts(quoted)
    return "\n\n".join(parts) + "\n"


def _parts(table: Table) -> list[str]:
    parts = [_group(group, table.columns, table.mark or "star") for group in table.groups]
    notes = [*legend(table, "star"), *table.notes]
    return [*parts, "\n".join(f"- {escape(note)}" for note in notes)] if notes else parts


def _group(group: Group, columns: list[Column], mark: Mark) -> str:
    heads = [escape(f"{c.header} ({c.unit})" if c.unit else c.header) for c in columns]
    aligned = ["---" if c.textual else "---:" for c in columns]
    lines = [f"**{escape(group.heading)}**", ""] if group.heading.strip() else []
    lines += [_line(heads), _line(aligned)]
    lines += [_line(_cells(row, columns, mark)) for row in group.rows]
    lines += [f"\n{escape(text)}" for text in failures(group.rows)]
    return "\n".join(lines)


def _cells(row: Row, columns: list[Column], mark: Mark) -> list[str]:
    return [_cell(row, column, mark) for column in columns]


def _cell(row: Row, column: Column, mark: Mark) -> str:
    value = row.values[column.key]
    text = escape(show(value, column))
    star = row.best and mark == "star" and column.key == "label"
    if text and (star or (value.best and mark == "bold")):
        text = f"**{text}**"
    return " ".join([text, *signs(row, mark)]) if column.key == "label" else text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
