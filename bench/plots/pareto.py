"""Quality against latency and memory, with the frontier: what no other variant beats in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import altair as alt

from bench.plots.facts import Scored, load_name, measured, scored, spread
from bench.plots.figure import Figure, number, span
from bench.plots.marks import Rows, Solvers, chart, finished, padded, percent_domain, tips
from bench.plots.style import BASELINE, Style
from bench.records import Record
from bench.serving import Workload

FRONTIER = (
    "Line and filled marks: the frontier, variants that no other beats in one without losing in the "
    "other, by the measured values. Upright bars are 95 % intervals (± 1.96 standard errors)"
)


PALE = 0.4  # opacity
NOISY = "Noisy measurements are pale and never on the frontier"


class Cost(NamedTuple):
    """A measured value, and the lowest and highest of its repetitions where there are several."""

    value: float
    low: float | None = None
    high: float | None = None
    noisy: bool = False


class Axis(NamedTuple):
    """What costs are: their name and unit, and how to read one from a record."""

    name: str
    unit: str
    cost: Callable[[Record], Cost | None]

    @property
    def title(self) -> str:
        return f"{self.name} ({self.unit})"


def latency(
    name: str, records: Sequence[Record], load: Workload, where: str, order: Sequence[str], style: Style
) -> Figure:
    """The average against the median time of a batch.

    Args:
        records: the latest cells of one model that were served under the same conditions ``where``.
    """

    def cost(record: Record) -> Cost | None:
        found = measured(record, load)
        if record.serving is None or found is None:
            return None
        low, high = spread(record.serving, load)
        noisy = load in record.serving.noise
        return Cost(1e3 * found.latency_seconds.p50, 1e3 * low, 1e3 * high, noisy)

    several = any(record.serving and len(record.serving.processes) > 1 for record in records)
    bars = "medians of the engine processes" if several else "timed runs"
    caption = f"{where}; {load_name(load)}. {FRONTIER}"
    caption += f", level ones run from the lowest to the highest of the {bars}."
    if any(record.serving and load in record.serving.noise for record in records):
        caption += f" {NOISY}."
    title = f"Quality against latency, batch of {load.batch_size}"
    return _figure(name, title, caption, Axis("median latency", "ms", cost), records, order, style)


def memory(
    name: str, records: Sequence[Record], where: str, order: Sequence[str], style: Style
) -> Figure:
    """The average against the bytes of the weights as the engine holds them."""

    def cost(record: Record) -> Cost | None:
        held = record.serving.result.memory.weights_bytes if record.serving else None
        return None if held is None else Cost(held / 1e6)

    caption = f"{where}; weights as the engine holds them. {FRONTIER}."
    title = "Quality against memory"
    return _figure(name, title, caption, Axis("weights", "MB", cost), records, order, style)


def _figure(
    name: str,
    title: str,
    caption: str,
    axis: Axis,
    records: Sequence[Record],
    order: Sequence[str],
    style: Style,
) -> Figure:
    model = records[0].model
    cells = [(cell, cost) for cell in scored(records) if (cost := axis.cost(cell.record))]
    if not cells:
        reason = "No cell has both an average and this measurement."
        return Figure(name, model, title, caption, missing=reason)
    pairs = [(cost.value, cell.average) for cell, cost in cells if not cost.noisy]
    best = {pairs[index] for index in frontier(pairs)}
    points = [_point(cell, cost, (cost.value, cell.average) in best) for cell, cost in cells]
    points.sort(key=lambda point: point["x"])
    on_line = [point for point in points if point["best"] == "yes"]
    listed = ", ".join(f"{p['name']} ({p['cost']} {axis.unit}, {p['avg']} %)" for p in on_line) or "none"
    columns = ["variant", axis.title, "lowest to highest", "avg (%)", "95 % interval", "frontier"]
    keys = ("name", "cost", "range", "avg", "interval", "best")
    return Figure(
        name,
        model,
        title,
        caption,
        f"{len(points)} variants. On the frontier, by {axis.name}: {listed}.",
        _spec(points, axis, order, style),
        columns,
        [[point[key] for key in keys] for point in points],
    )


def frontier(points: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of the (cost, quality) pairs that no other pair dominates.

    One is dominated by another that costs no more, is no worse, and is not equal.
    """
    return {
        index
        for index, (cost, quality) in enumerate(points)
        if not any(
            other <= cost and better >= quality and (other, better) != (cost, quality)
            for other, better in points
        )
    }


def _point(cell: Scored, cost: Cost, best: bool) -> dict[str, Any]:
    removed = f", {cell.layers} removed" if cell.layers else ""
    return {
        "x": cost.value,
        "x0": cost.low,
        "x1": cost.high,
        "y": cell.average,
        "low": cell.low,
        "high": cell.high,
        "solver": cell.name,
        "name": cell.name + removed,
        "short": f"{cell.name} {cell.layers}" if cell.layers else cell.name,
        "cost": number(cost.value),
        "range": span(cost.low, cost.high),
        "avg": number(cell.average),
        "interval": span(cell.low, cell.high),
        "best": "noisy" if cost.noisy else "yes" if best else "no",
    }


def _spec(points: Rows, axis: Axis, order: Sequence[str], style: Style) -> dict[str, Any]:
    shown = [label for label in (BASELINE, *order) if any(p["solver"] == label for p in points)]
    solvers = Solvers(order, shown, style)
    xs = [end for p in points for end in (p["x0"], p["x"], p["x1"]) if end is not None]
    ys = [end for p in points for end in (p["low"], p["y"], p["high"]) if end is not None]
    wide = alt.Scale(domain=padded(xs), zero=False, nice=False)
    high = alt.Scale(domain=percent_domain(ys), zero=False, nice=False)
    x = alt.X("x:Q", title=axis.title, scale=wide, axis=alt.Axis(tickCount=5))
    y = alt.Y("y:Q", title="avg (%)", scale=high, axis=alt.Axis(tickCount=6))
    base = chart(points)
    line = base.transform_filter("datum.best == 'yes'")
    upright = base.mark_rule(strokeWidth=0.8).encode(x=x, y=alt.Y("low:Q"), y2="high:Q")
    level = base.mark_rule(strokeWidth=0.8)
    return finished(
        alt.layer(
            line.mark_line(
                interpolate="step-after", color=style.colours["muted"], strokeDash=[4, 3]
            ).encode(x=x, y=y),
            upright.encode(color=solvers.colour),
            level.encode(x=alt.X("x0:Q"), x2="x1:Q", y=y, color=solvers.colour),
            _marks(base, solvers, axis, style).encode(x=x, y=y),
            *(text.encode(x=x, y=y, text="short:N") for text in _names(line, xs, style)),
        ).properties(width=style.width, height=style.height),
        style,
    )


def _marks(base: alt.Chart, solvers: Solvers, axis: Axis, style: Style) -> alt.Chart:
    lines = {"cost": axis.title, "range": "lowest to highest", "avg": "avg (%)"}
    lines |= {"interval": "95 % interval", "best": "on the frontier"}
    filled = alt.condition("datum.best == 'yes'", solvers.colour, alt.value("transparent"))
    marks: alt.Chart = base.mark_point(size=7 * style.bar, strokeWidth=1.5).encode(
        color=solvers.colour,
        shape=solvers.shape,
        fill=filled,
        opacity=alt.condition("datum.best == 'noisy'", alt.value(PALE), alt.value(1)),
        tooltip=tips(name="variant", **lines),
    )
    return marks


def _names(line: alt.Chart, xs: Sequence[float], style: Style) -> list[alt.Chart]:
    """The names of the variants on the frontier, toward the middle, legible over what is below."""
    middle = (min(xs) + max(xs)) / 2
    halo: dict[str, Any] = {"stroke": style.colours["surface"], "strokeWidth": 3, "strokeJoin": "round"}
    sides: list[tuple[str, Any, int]] = [
        (f"datum.x < {middle}", "left", 4),
        (f"datum.x >= {middle}", "right", -4),
    ]
    return [
        line.transform_filter(side).mark_text(align=align, dx=dx, dy=-7, limit=style.label_limit, **look)
        for look in (halo, {})
        for side, align, dx in sides
    ]
