"""Scores of every task, one chart for each number of layers removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from bench.leaderboard.averages import is_share
from bench.names import short_task_name
from bench.plots.facts import interval, name_of
from bench.plots.figure import Figure, layers_removed, number, span
from bench.plots.marks import Rows, Solvers, chart, finished, tips
from bench.plots.style import BASELINE, Style
from bench.records import Group, Record, Task
from bench.render.escape import visible

PAIRED = (
    "Variants answer the same items, so their differences are known better than these intervals "
    "suggest: 'replaceme-bench compare' tests them."
)


def of_cut(
    name: str, model: str, cut: int, records: Sequence[Record], order: Sequence[str], style: Style
) -> Figure:
    """The primary metric of every task for the variants of one cut and the intact model.

    Args:
        records: the latest cells of one model.
    """
    cells = [record for record in records if record.layers in (0, cut) and record.scores]
    shares, others = _tasks(cells)
    title = f"Tasks with {layers_removed(cut)}" if cut else "Tasks of the intact model"
    caption = "Primary metric of each task with its 95 % interval (± 1.96 standard errors). "
    caption += PAIRED
    if others:
        caption += f" Not shown, since no shares: {', '.join(others)}."
    rows = [row for task in shares for record in cells if (row := _row(task, record, shares[task]))]
    if not rows or not any(record.layers == cut for record in cells):
        return Figure(name, model, title, caption, missing="No task of these cells has a score.")
    return Figure(
        name,
        model,
        title,
        caption,
        _alt(rows),
        _spec(rows, order, style),
        ["task", "variant", "score (%)", "95 % interval", "items"],
        [[row[key] for key in ("task", "solver", "score", "interval", "items")] for row in rows],
    )


def _tasks(cells: Sequence[Record]) -> tuple[dict[str, str], list[str]]:
    """Task → its name with the metric where that is a share of 1, and the names of the others."""
    metrics = {name: task.primary for record in cells for name, task in record.scores.items()}
    short = [short_task_name(name) for name in metrics]
    distinct = len(set(short)) == len(short)
    named = {
        name: visible(f"{brief if distinct else name} {metric}")
        for (name, metric), brief in zip(metrics.items(), short, strict=True)
    }
    shares = [
        name
        for name in metrics
        if all(_is_share(record.scores[name]) for record in cells if name in record.scores)
    ]
    others = [named[name] for name in metrics if name not in shares]
    return {name: named[name] for name in shares}, others


def _is_share(task: Task | Group) -> bool:
    value = task.metrics[task.primary].value
    return is_share(task) and (value is None or value >= 0)


def _row(task: str, record: Record, readable: str) -> dict[str, Any] | None:
    scores = record.scores.get(task)
    metric = scores.metrics.get(scores.primary) if scores else None
    if scores is None or metric is None or metric.value is None:
        return None
    percent = 100 * metric.value
    low, high = interval(percent, None if metric.stderr is None else 100 * metric.stderr)
    return {
        "task": readable,
        "solver": name_of(record),
        "y": percent,
        "low": low,
        "high": high,
        "score": number(percent),
        "interval": span(low, high),
        "items": f"{scores.items:,}",
    }


def _alt(rows: Rows) -> str:
    parts = []
    for task in dict.fromkeys(row["task"] for row in rows):
        ours = [row for row in rows if row["task"] == task]
        best = max(ours, key=lambda row: row["y"])
        parts.append(
            f"{task}: {best['solver']} is highest with {best['score']} % of {len(ours)} variants."
        )
    return " ".join(parts)


def _spec(rows: Rows, order: Sequence[str], style: Style) -> dict[str, Any]:
    shown = [label for label in (BASELINE, *order) if any(row["solver"] == label for row in rows)]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    height = len(tasks) * (len(shown) + 1) * style.bar
    solvers = Solvers(order, shown, style)
    x = alt.X("y:Q", title="score (%)", scale=alt.Scale(domain=[0, 100]), axis=alt.Axis(tickCount=5))
    y = alt.Y("task:N", title=None, sort=tasks, axis=alt.Axis(labelLimit=style.label_limit, ticks=False))
    offset = alt.YOffset("solver:N", sort=shown)
    lines = {"score": "score (%)", "interval": "95 % interval", "items": "items"}
    base = chart(rows)
    bars = base.mark_bar().encode(
        x=x,
        y=y,
        yOffset=offset,
        color=solvers.colour,
        tooltip=tips(task="task", solver="variant", **lines),
    )
    spans = base.mark_rule(color=style.colours["ink"])
    spans = spans.encode(x=alt.X("low:Q"), x2="high:Q", y=y, yOffset=offset)
    return finished(alt.layer(bars, spans).properties(width=style.width, height=height), style)
