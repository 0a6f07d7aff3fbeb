"""Answers of a cell beside those of the intact model, for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bench.items import Answer, Item
from bench.render.escape import visible_lines

LINES = 12  # of a prompt that are shown at its end, unless it is asked for as a whole


def show_item(
    console: Console, item: Item, intact: Answer | None, name: str, whole: bool = False
) -> None:
    """Print one item: its prompt, what would be right, and what both models answered.

    Args:
        intact: what the intact model answered; ``None``: not kept, or the cell is that model.
        name: of the cell.
        whole: print the whole prompt.
    """
    lines = item.prompt.splitlines() or [""]
    left_out = 0 if whole else max(0, len(lines) - LINES)
    head = [Text(f"… {left_out} lines before, shown by --whole\n", style="dim")] if left_out else []
    prompt = Group(*head, _text("\n".join(lines[left_out:])))
    console.print(Panel(prompt, title=f"item {item.number}", title_align="left", box=box.ROUNDED))
    table = Table(box=box.SIMPLE_HEAD, show_lines=True, expand=True)
    table.add_column("", no_wrap=True)
    sides = [("intact", intact), (name, item.answer)] if intact else [(name, item.answer)]
    for heading, _ in sides:
        table.add_column(Text(heading), ratio=1, overflow="fold")
    answers = [answer for _, answer in sides]
    table.add_row("target", *(_text(item.target) for _ in sides))
    table.add_row("answer", *(_text(answer.text) for answer in answers))
    for label in item.answer.extracted:
        table.add_row(label, *(_text(answer.extracted.get(label, "–")) for answer in answers))
    for metric in item.answer.scores:
        table.add_row(metric, *(_number(answer.scores.get(metric)) for answer in answers))
    console.print(table)


def list_items(console: Console, items: list[tuple[Item, Answer | None]], name: str) -> None:
    """Print items in a table, one a row."""
    table = Table(box=box.SIMPLE_HEAD, expand=True)
    table.add_column("item", justify="right", no_wrap=True)
    for heading in ("target", "intact", name):
        table.add_column(Text(heading), ratio=1, overflow="fold")
    for item, intact in items:
        cells = [item.target, intact.text if intact else "–", item.answer.text]
        table.add_row(str(item.number), *map(_shorten, cells))
    console.print(table)


def _text(text: str) -> RenderableType:
    return Text(visible_lines(text)) if text else Text("(empty)", style="dim")


def _shorten(text: str) -> RenderableType:
    """The first line of a text, as far as it fits."""
    first, *rest = text.strip().splitlines() or [""]
    return _text(first[:200] + (" …" if rest or len(first) > 200 else ""))


def _number(score: float | None) -> str:
    return "–" if score is None else f"{score:g}"
