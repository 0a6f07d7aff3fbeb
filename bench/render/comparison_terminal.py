"""A comparison on the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.compare.comparison import Comparison, Marker
from bench.render.comparison import (
    AVERAGE_HEADS,
    FEW,
    LEFT,
    Line,
    average_rows,
    basis,
    brief,
    counts,
    lines,
    made_differently,
    remarks,
    summary,
    table,
)
from bench.render.escape import visible

STYLES = {
    Marker.BETTER: "green",
    Marker.SAME: "dim",
    Marker.INCONCLUSIVE: "yellow",
    Marker.INCOMPARABLE: "yellow",
}


def render(comparison: Comparison, console: Console, everything: bool = False) -> None:
    """Print the verdict, then the values worst first, then averages and what it rests on."""
    if not console.is_terminal:
        console = Console(file=console.file, width=10_000, force_terminal=False, highlight=False)
    style = "bold green" if comparison.passes else "bold red"
    if comparison.passes and comparison.inconclusive:
        style = "bold yellow"
    console.print(Text(summary(comparison), style=style))
    console.print(_text(f"base {comparison.base}, new {comparison.new}: {counts(comparison)}."))
    told, same, equal = lines(comparison)
    shown = [*told, *same, *equal] if everything else [*brief(told), *same[:FEW]]
    if shown:
        console.print()
        heads, *rows = table(comparison, shown)
        console.print(_table(heads, rows, LEFT, [_style(line) for line in shown]))
    if hidden := len(told) + len(same) + len(equal) - len(shown):
        equals = f", {len(equal)} of them equal item by item" if equal else ""
        console.print(_text(f"… and {hidden} more{equals} (--all shows them).", "dim"))
    for remark in remarks(comparison):
        console.print(_text(f"{remark}."))
    rows, unchanged = average_rows(comparison)
    if rows:
        console.print()
        console.print(_table(AVERAGE_HEADS, rows, (0,), [""] * len(rows)))
    if unchanged:
        console.print(_text(f"Averages of {unchanged} cells are as they were.", "dim"))
    for made in made_differently(comparison):
        console.print(_text(f"made differently: {made}", "dim"))
    console.print()
    for sentence in basis(comparison):
        console.print(_text(sentence, "dim"))


def text(comparison: Comparison, everything: bool = False) -> str:
    """The same without colours and at any width."""
    file = io.StringIO()
    render(comparison, Console(file=file, highlight=False), everything)
    return file.getvalue()


def _style(line: Line) -> str:
    return "red" if line.verdict.regression else STYLES.get(line.verdict.marker, "")


def _text(content: str, style: str = "") -> Text:
    return Text(visible(content), style=style)


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int], styles: Sequence[str]
) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold cyan")
    for index, head in enumerate(heads):
        table.add_column(
            head,
            justify="left" if index in left else "right",
            overflow="fold",
            no_wrap=index not in left,
        )
    for texts, style in zip(rows, styles, strict=True):
        table.add_row(*(_text(content) for content in texts), style=style)
    return table
