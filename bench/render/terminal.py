"""Leaderboard as Rich tables that fit the terminal."""

import io
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from bench.leaderboard.table import Column, Group, Mark, Row, Table, show
from bench.render.escape import visible
from bench.render.wording import failures, legend, quotation, signs

PADDING = 2  # columns of space between neighbours


def render(table: Table, console: Console) -> None:
    """Print a table to a console; columns that do not fit its width are named below.

    A console that is not a terminal gets every column.
    """
    width = console.width if console.is_terminal else 10**6
    if not console.is_terminal:
        console = Console(file=console.file, width=10_000, force_terminal=False, highlight=False)
    _body(table, console, width)
    for i, quoted in enumerate(table.quoted):
        if i or table.groups or table.notes:
            console.print()
        _say(quotation(quoted), "bold yellow", console)
        _body(quoted, console, width)


def text(table: Table) -> str:
    """The table with every column, without colours."""
    file = io.StringIO()
    render(table, Console(file=file, highlight=False))
    return file.getvalue()


def fitting(table: Table, width: int) -> list[Column]:
    """The columns of highest priority that fit ``width``, in table order.

    Columns of one kind and priority, such as those of all tasks, are shown together or not at all.
    """
    kinds: dict[tuple[int, str], list[Column]] = {}
    for column in sorted(table.columns, key=lambda column: column.priority):
        kinds.setdefault((column.priority, column.kind), []).append(column)
    kept: list[Column] = []
    used = 0
    for (priority, _), columns in kinds.items():
        needed = sum(_width(table, column) + PADDING for column in columns)
        if priority == 0 or used + needed <= width:
            kept += columns
            used += needed
    return [column for column in table.columns if column in kept]


def _body(table: Table, console: Console, width: int) -> None:
    columns = fitting(table, width)
    for i, group in enumerate(table.groups):
        if i:
            console.print()
        if group.heading.strip():
            _say(group.heading, "bold", console)
        console.print(_group(group, table, columns, plain=not console.is_terminal))
        for reason in failures(group.rows):
            _say(reason, "red", console)
    for note in [*legend(table, "star"), *table.notes]:
        _say(note, "dim", console)
    if hidden := [column.header for column in table.columns if column not in columns]:
        _say(f"Not shown at this width: {', '.join(hidden)}.", "dim", console)


def _say(sentence: str, style: str, console: Console) -> None:
    console.print(Text(visible(sentence), style=style))


def _width(table: Table, column: Column) -> int:
    texts = [*_head(column).splitlines(), *(_text(row, column, "star") for row in table.rows)]
    return max(map(cell_len, texts))


def _head(column: Column) -> str:
    return "\n".join([*visible(column.header).split(" "), visible(column.unit)])


def _text(row: Row, column: Column, mark: Mark) -> str:
    text = visible(show(row.values[column.key], column))
    return " ".join([text, *signs(row, mark)]) if column.key == "label" else text


def _group(group: Group, table: Table, columns: list[Column], plain: bool) -> RichTable:
    mark = table.mark or "star"
    rich = RichTable(box=None, padding=(0, PADDING, 0, 0), pad_edge=False, header_style="bold cyan")
    for column in columns:
        justify: Literal["left", "right"] = "left" if column.textual else "right"
        head, width = Text(_head(column), justify=justify), _width(table, column)
        rich.add_column(head, justify=justify, min_width=width, no_wrap=True, vertical="bottom")
    for i, rows in enumerate(group.sections):
        if i:
            rich.add_row()
        for row in rows:
            style = "red" if row.failure else "bold green" if row.best and mark == "star" else ""
            rich.add_row(*(_cell(row, column, mark, plain) for column in columns), style=style)
    return rich


def _cell(row: Row, column: Column, mark: Mark, plain: bool) -> Text:
    text = _text(row, column, mark)
    if mark != "bold" or not row.values[column.key].best:
        return Text(text)
    return Text(f"**{text}**") if plain else Text(text, style="bold green")
