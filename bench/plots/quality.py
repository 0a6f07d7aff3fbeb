"""Quality against layers removed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt

from bench.plots.facts import Scored, scored
from bench.plots.figure import Figure, layers_removed, number, span
from bench.plots.marks import Rows, Solvers, chart, finished, percent_domain, tips
from bench.plots.style import Style
from bench.records import Record

INTERVALS = "Bars are 95 % intervals (± 1.96 standard errors)."
DODGE = 0.035  # of the distance between neighbouring cuts, so that bars do not hide each other


def against_layers(
    name: str, model: str, records: Sequence[Record], order: Sequence[str], style: Style
) -> Figure:
    """The average of every cell against the number of layers removed, a line per solver."""
    cells = scored(records)
    base = next((cell for cell in cells if not cell.layers), None)
    title = "Quality against layers removed"
    caption = f"Mean of the tasks' primary metrics. {INTERVALS}"
    if base:
        caption += " Dashed: the intact model"
        caption += "; right axis: relative to it." if base.average else "."
    if not any(cell.layers for cell in cells):
        reason = "No pruned cell of this model has all its scores."
        return Figure(name, model, title, caption, missing=reason)
    return Figure(
        name,
        model,
        title,
        f"{caption} Points of one cut stand a little apart.",
        _layers_alt(cells, base),
        _layers_spec(cells, base, order, style),
        ["variant", "cut", "avg (%)", "95 % interval", "RP (%)"],
        [[c.name, str(c.layers), number(c.average), span(c.low, c.high), number(c.rp)] for c in cells],
    )


def _layers_alt(cells: Sequence[Scored], base: Scored | None) -> str:
    parts = [f"The intact model reaches {base.average:.1f} %."] if base else []
    for cut in dict.fromkeys(cell.layers for cell in cells if cell.layers):
        at_cut = sorted((c for c in cells if c.layers == cut), key=lambda cell: -cell.average)
        best, worst = at_cut[0], at_cut[-1]
        part = f"With {layers_removed(cut)}, {best.name} is best with {best.average:.1f} %"
        parts.append(
            part + (f", {worst.name} last with {worst.average:.1f} %." if worst != best else ".")
        )
    return " ".join(parts)


def _layers_spec(
    cells: Sequence[Scored], base: Scored | None, order: Sequence[str], style: Style
) -> dict[str, Any]:
    cuts = sorted({cell.layers for cell in cells})
    gap = min((after - before for before, after in pairwise(cuts)), default=1)
    ends = [end for cell in cells for end in (cell.low, cell.average, cell.high) if end is not None]
    domain = percent_domain(ends)
    x = alt.X(
        "x:Q",
        title="layers removed",
        scale=alt.Scale(domain=[min(cuts) - gap / 3, max(cuts) + gap / 3], nice=False),
        axis=alt.Axis(values=cuts, grid=False, format="d"),
    )
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    y = alt.Y("y:Q", title="avg (%)", scale=scale, axis=alt.Axis(tickCount=6))
    start = [_point(base, 0)] if base else []
    shown = [label for label in order if any(c.name == label and c.layers for c in cells)]
    points = {
        label: [
            _point(cell, gap * DODGE * (index - (len(shown) - 1) / 2))
            for cell in cells
            if cell.layers and cell.name == label
        ]
        for index, label in enumerate(shown)
    }
    layers = _intact(start, x, y, style) if start else []
    whole = alt.layer(*layers, *_lines(start, points, Solvers(order, shown, style), x, y, style))
    if base and base.average:
        relative = [100 * end / base.average for end in domain]
        whole = alt.layer(whole, _relative_axis(start, relative, x)).resolve_scale(y="independent")
    return finished(whole.properties(width=style.width, height=style.height), style)


def _intact(start: Rows, x: alt.X, y: alt.Y, style: Style) -> list[alt.Chart]:
    grey = style.colours["muted"]
    return [
        chart(start).mark_rule(strokeDash=[6, 4], color=grey).encode(y=y),
        chart(start).mark_rule(color=grey).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
        chart(start)
        .mark_point(filled=True, shape="square", color=grey, size=6 * style.bar, opacity=1)
        .encode(x=x, y=y, tooltip=_TIPS),
    ]


def _lines(
    start: Rows, points: dict[str, Rows], solvers: Solvers, x: alt.X, y: alt.Y, style: Style
) -> list[alt.Chart]:
    lines = [
        chart([row | {"solver": label} for row in start] + rows)
        .mark_line(strokeWidth=1.5, strokeDash=solvers.dash_of(label))
        .encode(x=x, y=y, color=solvers.colour)
        for label, rows in points.items()
    ]
    every = [row for rows in points.values() for row in rows]
    spans = chart(every).mark_rule()  # leaves out what is unknown
    marks = chart(every).mark_point(filled=True, size=6 * style.bar, opacity=1)
    return [
        *lines,
        spans.encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=solvers.colour),
        marks.encode(x=x, y=y, color=solvers.colour, shape=solvers.shape, tooltip=_TIPS),
    ]


def _relative_axis(start: Rows, domain: list[float], x: alt.X) -> alt.Chart:
    """An unseen mark that has the same scale as the averages, in percent of the intact model's."""
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    axis = alt.Axis(orient="right", grid=False, tickCount=6)
    y = alt.Y("rp:Q", title="RP (%)", scale=scale, axis=axis)
    unseen: alt.Chart = chart(start).mark_point(opacity=0, tooltip=False).encode(x=x, y=y)
    return unseen


_TIPS = tips(
    solver="variant", cut="layers removed", avg="avg (%)", interval="95 % interval", relative="RP (%)"
)


def _point(cell: Scored, shift: float) -> dict[str, Any]:
    return {
        "x": cell.layers + shift,
        "y": cell.average,
        "rp": cell.rp,
        "low": cell.low,
        "high": cell.high,
        "solver": cell.name,
        "cut": str(cell.layers),
        "avg": number(cell.average),
        "interval": span(cell.low, cell.high),
        "relative": number(cell.rp),
    }
