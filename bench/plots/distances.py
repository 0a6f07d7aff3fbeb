"""How far every block's output is from its input, and which blocks were chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import quantiles
from typing import Any

import altair as alt

from bench.plots.figure import Figure, number
from bench.plots.marks import Rows, chart, finished
from bench.plots.style import STEPS, Style
from bench.records import Record

Matrix = list[list[float | None]]


def maps(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Measured distances of one model, as JSON → the cells whose blocks were chosen by them."""
    found: dict[str, list[Record]] = {}
    for record in records:
        if record.prune and record.prune.distances:
            found.setdefault(json.dumps(record.prune.distances), []).append(record)
    return found


def heat_map(name: str, model: str, records: Sequence[Record], style: Style) -> Figure:
    """Block start × block length, coloured by distance.

    Args:
        records: cells with the same distances; or none that has any.
    """
    title = "Distances of all blocks"
    caption = (
        "Distance between the states before and after a block, 0 to 1: a low one says that the layers "
        "change little. Outlined: blocks that were removed."
    )
    first = next((record.prune for record in records if record.prune and record.prune.distances), None)
    if first is None or first.distances is None:
        reason = "The records hold no distances: an older release wrote them, or the blocks were given."
        return Figure(name, model, title, caption, missing=reason)
    if (step := records[0].identity.prune) and step.selector:
        caption = f"Selector {step.selector}. {caption}"
    chosen = _chosen(records)
    rows = _rows(first.distances, chosen)
    if not rows:
        return Figure(name, model, title, caption, missing="No distance is known.")
    return Figure(
        name,
        model,
        title,
        caption,
        _alt(rows, chosen),
        _spec(rows, style),
        ["length", "block", "distance", "next best", "distance", "removed"],
        _table(rows),
    )


def _chosen(records: Sequence[Record]) -> dict[tuple[int, int], list[str]]:
    """(start, length) → the variants that lack this block."""
    found: dict[tuple[int, int], list[str]] = {}
    for record in records:
        for start, end in record.prune.blocks if record.prune else []:
            found.setdefault((start, end - start), []).append(record.label)
    return found


def _rows(distances: Matrix, chosen: dict[tuple[int, int], list[str]]) -> Rows:
    return [
        {
            "s": start,
            "n": size,
            "d": distance,
            "by": ", ".join(dict.fromkeys(chosen.get((start, size), []))),
        }
        for size, row in enumerate(distances, 1)
        for start, distance in enumerate(row, 1)
        if distance is not None
    ]


def _block(row: dict[str, Any]) -> str:
    return f"[{row['s']}, {row['s'] + row['n']})"


def _alt(rows: Rows, chosen: dict[tuple[int, int], list[str]]) -> str:
    removed = ", ".join(f"[{start}, {start + size})" for start, size in chosen) or "none"
    low, high = min(row["d"] for row in rows), max(row["d"] for row in rows)
    return f"{len(rows)} blocks with distances from {low:.3f} to {high:.3f}. Removed: {removed}."


def _table(rows: Rows) -> list[list[str]]:
    table = []
    for size in dict.fromkeys(row["n"] for row in rows):
        ordered = sorted((row for row in rows if row["n"] == size), key=lambda row: row["d"])
        first, second = ordered[0], ordered[1] if len(ordered) > 1 else None
        removed = "; ".join(f"{_block(row)} by {row['by']}" for row in ordered if row["by"])
        after = [_block(second), number(second["d"], 4)] if second else ["–", "–"]
        table.append([str(size), _block(first), number(first["d"], 4), *after, removed or "–"])
    return table


def _limits(values: Sequence[float]) -> list[float]:
    """Where one colour ends and the next begins: equal shares of the blocks, rounded, distinct."""
    if len(set(values)) < 2:
        return [values[0]]
    return sorted({float(f"{limit:.2g}") for limit in quantiles(values, n=len(STEPS))})


def _spec(rows: Rows, style: Style) -> dict[str, Any]:
    limits = _limits([row["d"] for row in rows])
    steps = [STEPS[round(i * (len(STEPS) - 1) / len(limits))] for i in range(len(limits) + 1)]
    scale = alt.Scale(type="threshold", domain=limits, range=steps)
    legend = alt.Legend(gradientLength=style.height, gradientThickness=style.bar)
    numbers = alt.Axis(grid=False, format="d", tickMinStep=1)
    x = alt.X("x0:Q", title="first layer of the block", scale=_whole(rows, "s"), axis=numbers)
    y = alt.Y("y0:Q", title="layers in the block", scale=_whole(rows, "n"), axis=numbers)
    base = chart(rows).transform_calculate(
        block="'[' + datum.s + ', ' + (datum.s + datum.n) + ')'",
        x0="datum.s - 0.5",
        x1="datum.s + 0.52",  # a little below the next one, or a seam would show
        y0="datum.n - 0.5",
        y1="datum.n + 0.52",
    )
    cells = base.mark_rect().encode(
        color=alt.Color("d:Q", title="distance", scale=scale, legend=legend),
        tooltip=[
            alt.Tooltip("block:N"),
            alt.Tooltip("d:Q", title="distance", format=".4f"),
            alt.Tooltip("by:N", title="removed by"),
        ],
    )
    removed = base.transform_filter("datum.by != ''")
    outlines = [
        removed.mark_rect(filled=False, tooltip=False, opacity=1, stroke=stroke, strokeWidth=width)
        for stroke, width in (("#ffffff", style.bar / 2), ("#c1121f", style.bar / 4))
    ]
    layers = [layer.encode(x=x, x2="x1:Q", y=y, y2="y1:Q") for layer in (cells, *outlines)]
    return finished(alt.layer(*layers).properties(width=style.width, height=style.height), style)


def _whole(rows: Rows, key: str) -> alt.Scale:
    """A scale with a place of its own for each whole number."""
    values = [row[key] for row in rows]
    return alt.Scale(domain=[min(values) - 0.5, max(values) + 0.5], nice=False, zero=False)
