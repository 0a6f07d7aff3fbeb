"""A metric over commits: a line for each cell, a panel for each cut."""

from __future__ import annotations

import altair as alt

from bench.compare.over_commits import History
from bench.names import cell_name
from bench.plots.figure import Figure, number, span
from bench.plots.marks import Rows, Solvers, finished, tips
from bench.plots.style import PAPER

WIDTH, HEIGHT = 330, 90  # pixels of a panel


def chart(history: History) -> Figure:
    """The figure, or the reason why there is none."""
    head, unit = history.column.header, history.column.unit
    title = f"{head} over the commits of {history.folder}"
    rows = _rows(history)
    if not rows:
        return Figure("history", "", title, "", missing="No commit has a value.")
    caption = (
        "Bars are 95 % intervals (± 1.96 standard errors) of single values. A line breaks where the "
        "items changed."
    )
    alt_text = f"{head} of {len(history.cells)} cells over {len(history.points)} commits."
    columns = ["commit", "cell", head, "95 % interval"]
    shown = [[row["commit"], row["cell"], row["value"], row["interval"]] for row in rows]
    named = f"{head} ({unit})" if unit else head
    return Figure("history", "", title, caption, alt_text, _spec(rows, history, named), columns, shown)


def _rows(history: History) -> Rows:
    several = len({model for model, *_ in history.cells}) > 1
    rows, segment = [], 0
    for point in history.points:
        segment += point.other_items
        for (model, layers, label), value in point.values.items():
            if value.number is None:
                continue
            ends: tuple[float | None, float | None] = (None, None)
            if value.stderr is not None:
                half = 1.96 * value.stderr
                ends = (value.number - half, value.number + half)
            cut = f"{layers} layers out" if layers else "intact"
            rows.append(
                {
                    "commit": point.commit,
                    "solver": label,
                    "segment": segment,
                    "panel": f"{model}, {cut}" if several else cut,
                    "order": layers,
                    "cell": cell_name(model, layers, label),
                    "y": value.number,
                    "low": ends[0],
                    "high": ends[1],
                    "value": number(value.number, history.column.digits) + "?" * value.noisy,
                    "interval": span(*ends),
                }
            )
    return rows


def _spec(rows: Rows, history: History, head: str) -> dict[str, object]:
    labels = list(dict.fromkeys(row["solver"] for row in rows))
    panels = list(dict.fromkeys(row["panel"] for row in sorted(rows, key=lambda row: row["order"])))
    solvers = Solvers(labels, labels, PAPER)
    commits = alt.Axis(labelAngle=-45, grid=False)
    scale = alt.Scale(zero=False, padding=8)
    order = [point.commit for point in history.points]
    base = alt.Chart().encode(
        x=alt.X("commit:N", title=None, sort=order, scale=alt.Scale(domain=order), axis=commits),
        y=alt.Y("y:Q", title=head, scale=scale, axis=alt.Axis(tickCount=4)),
        color=solvers.colour,
    )
    lines = base.mark_line(strokeWidth=1.2).encode(strokeDash=solvers.dash, detail="segment:N")
    bars = base.mark_rule(opacity=0.6).encode(y=alt.Y("low:Q", title=head, scale=scale), y2="high:Q")
    points = base.mark_point(filled=True, size=5 * PAPER.bar, opacity=1).encode(
        shape=solvers.shape,
        tooltip=tips(cell="cell", commit="commit", value=head, interval="95 % interval"),
    )
    bars = bars.transform_filter("isValid(datum.low)")
    layered = alt.layer(lines, bars, points).properties(width=WIDTH, height=HEIGHT)
    row = alt.Row(
        "panel:N", sort=panels, title=None, header=alt.Header(orient="top", labelAnchor="start")
    )
    panels_of_cuts = layered.facet(row=row, data=alt.Data(values=rows)).resolve_scale(y="independent")
    return finished(panels_of_cuts, PAPER)
