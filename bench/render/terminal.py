"""Leaderboard as Rich tables that fit the terminal."""

import io

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from bench.leaderboard import Column, Group, Row, Table, show

PADDING = 2  # columns of space between neighbours


def render(table: Table, console: Console) -> None:
    """Print a table to a console; columns that do not fit its width are named below.

    A console that is not a terminal gets every column.
    """
    width = console.width if console.is_terminal else 10**6
    columns = fitting(table, width)
    if not console.is_terminal:
        console = Console(file=console.file, width=10_000, force_terminal=False, highlight=False)
    for group in table.groups:
        console.print(Text(group.title, style="bold"), soft_wrap=True)
        console.print(_group(group, columns))
        for row in group.rows:
            if row.failure:
                text = f"✗ {row.values['label'].text} at {row.layers}: {row.failure}"
                console.print(Text(text, style="red"), soft_wrap=True)
    for note in table.notes:
        console.print(Text(note, style="dim"))
    if hidden := [column.header for column in table.columns if column not in columns]:
        console.print(
            Text(f"Not shown at this width: {', '.join(hidden)}.", style="dim"),
            soft_wrap=not console.is_terminal,
        )


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
        kinds.setdefault((column.priority, column.key.partition(":")[0]), []).append(column)
    kept: list[Column] = []
    used = 0
    for (priority, _), columns in kinds.items():
        needed = sum(_width(table, column) + PADDING for column in columns)
        if priority == 0 or used + needed <= width:
            kept += columns
            used += needed
    return [column for column in table.columns if column in kept]


def _width(table: Table, column: Column) -> int:
    rows = [row for group in table.groups for row in group.rows]
    texts = [*_head(column).splitlines(), *(_text(row, column) for row in rows)]
    return max(map(len, texts))


def _head(column: Column) -> str:
    return "\n".join([*column.header.split(" "), column.unit])


def _text(row: Row, column: Column) -> str:
    text = show(row.values[column.key], column)
    if column.key != "label":
        return text
    mark = " ✗" if row.failure else " ★" if row.best else " !" if row.warning else ""
    return text + mark


def _group(group: Group, columns: list[Column]) -> RichTable:
    rich = RichTable(box=None, padding=(0, PADDING, 0, 0), pad_edge=False, header_style="bold cyan")
    for column in columns:
        left = column.key in ("label", "block")
        rich.add_column(
            _head(column), justify="left" if left else "right", no_wrap=True, vertical="bottom"
        )
    previous = None
    for row in group.rows:
        if previous is not None and row.layers != previous:
            rich.add_section()
            rich.add_row()
        previous = row.layers
        style = "red" if row.failure else "bold green" if row.best else ""
        rich.add_row(*(_text(row, column) for column in columns), style=style)
    return rich
