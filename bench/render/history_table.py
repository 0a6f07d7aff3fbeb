"""A history as a terminal table, Markdown, or JSON."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.compare.over_commits import History, Point, names
from bench.leaderboard.table import show
from bench.render.escape import json_text, visible
from bench.render.escape import markdown as escape_markdown

MARGIN = 2  # columns of space between neighbours


def render(history: History, console: Console) -> None:
    """A row for each cell, a column for each commit, the newest that fit; then the commits."""
    width = console.width if console.is_terminal else 10_000
    if not console.is_terminal:
        console = Console(file=console.file, width=width, force_terminal=False, highlight=False)
    console.print(Text(visible(_title(history)), style="bold"))
    shown = _fitting(history, width)
    table = Table(box=None, padding=(0, MARGIN, 0, 0), pad_edge=False, header_style="bold cyan")
    table.add_column("cell", overflow="fold")
    for point in shown:
        table.add_column(f"{point.date[:10]}\n{point.commit}", justify="right", no_wrap=True)
    for name, texts in _rows(history, shown):
        table.add_row(Text(visible(name)), *texts)
    console.print(table)
    if hidden := len(history.points) - len(shown):
        console.print(Text(f"{hidden} older commits do not fit this width.", style="dim"))
    for point in history.points:
        style = "red" if point.problem else "dim"
        console.print(Text(visible(f"{point.date[:10]}  {_told(point)}"), style=style))


def text(history: History) -> str:
    file = io.StringIO()
    render(history, Console(file=file, highlight=False))
    return file.getvalue()


def markdown(history: History) -> str:
    heads = ["cell", *(f"{point.date[:10]} {point.commit}" for point in history.points)]
    rules = ["---", *("---:" for _ in history.points)]
    rows = [[escape_markdown(name), *texts] for name, texts in _rows(history, history.points)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [heads, rules, *rows])
    commits = "\n".join(f"- {escape_markdown(_told(point))}" for point in history.points)
    return f"**{escape_markdown(_title(history))}**\n\n{table}\n\n{commits}\n"


def to_json(history: History) -> str:
    content = {
        "folder": history.folder,
        "metric": asdict(history.column),
        "commits": [
            {
                "commit": point.commit,
                "date": point.date,
                "subject": point.subject,
                "other_items": point.other_items,
                "problem": point.problem,
                "values": _values(point),
            }
            for point in history.points
        ],
    }
    return json_text(json.dumps(content, indent=1, ensure_ascii=False)) + "\n"


def _values(point: Point) -> list[dict[str, Any]]:
    return [
        {"model": model, "layers": layers, "label": label}
        | {"value": v.number, "stderr": v.stderr, "noisy": v.noisy}
        for (model, layers, label), v in point.values.items()
    ]


def _title(history: History) -> str:
    unit = f" ({history.column.unit})" if history.column.unit else ""
    return f"{history.column.header}{unit} in {history.folder}, by commit"


def _told(point: Point) -> str:
    problem = f": cannot be read: {point.problem}" if point.problem else ""
    other = " (other tasks or items than before)" if point.other_items else ""
    return f"{point.commit}  {point.subject}{other}{problem}"


def _rows(history: History, shown: list[Point]) -> list[tuple[str, list[str]]]:
    """A cell's name and its values at the commits shown; a dash where it has none."""
    rows = []
    for name, key in zip(names(history.cells), history.cells, strict=True):
        values = [point.values.get(key) for point in shown]
        rows.append((name, [show(v, history.column) if v else "–" for v in values]))
    return rows


def _fitting(history: History, width: int) -> list[Point]:
    """The newest commits whose columns fit, at least one, in order."""
    rows = _rows(history, history.points)
    used = max((len(name) for name, _ in rows), default=4) + MARGIN
    kept = 0
    for index in reversed(range(len(history.points))):
        texts = [texts[index] for _, texts in rows]
        used += max(10, *(map(len, [history.points[index].commit, *texts]))) + MARGIN
        if kept and used > width:
            break
        kept += 1
    return history.points[len(history.points) - kept :]
