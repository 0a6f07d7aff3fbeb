"""Changed answers against layers removed: what an equal score hides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from bench.leaderboard.changed import Compared, list_values
from bench.plots.facts import name_of
from bench.plots.figure import Figure, layers_removed, number
from bench.plots.marks import Rows, Solvers, chart, finished, percent_domain, tips
from bench.plots.style import Style
from bench.records import Record

CAPTION = (
    "Share of items whose chosen answer is not the intact model's, mean over the tasks: two variants "
    "with the same score may answer differently."
)


def against_layers(
    name: str, model: str, records: Sequence[Record], order: Sequence[str], style: Style
) -> Figure | None:
    """Flips of every pruned cell against the number of layers removed; ``None`` where none are known."""
    compared = Compared.of(records)
    rows = [row for record in records if record.layers and (row := _row(record, compared))]
    if not rows:
        return None
    columns = ["variant", "cut", "flips (%)", "right → wrong (%)", "wrong → right (%)", "KL (nats)"]
    keys = ["solver", "cut", "flips", "lost", "won", "kl"]
    return Figure(
        name,
        model,
        "Changed answers against layers removed",
        CAPTION,
        _alt(rows),
        _spec(rows, order, style),
        columns,
        [[row[key] for key in keys] for row in rows],
    )


def _row(record: Record, compared: Compared) -> dict[str, Any] | None:
    values = list_values(record, compared)
    if (flips := values["flips"].number) is None:
        return None
    shares = {key: number(values[key].number) for key in ("flips", "lost", "won")}
    place = {"x": record.layers, "y": flips, "solver": name_of(record), "cut": str(record.layers)}
    return place | shares | {"kl": number(values["kl"].number, 3)}


def _alt(rows: Rows) -> str:
    parts = []
    for cut in dict.fromkeys(row["x"] for row in rows):
        here = sorted((row for row in rows if row["x"] == cut), key=lambda row: float(row["y"]))
        part = f"With {layers_removed(cut)}, {here[0]['solver']} changes {here[0]['flips']} % of answers"
        most = f", {here[-1]['solver']} {here[-1]['flips']} %." if len(here) > 1 else "."
        parts.append(part + most)
    return " ".join(parts)


def _spec(rows: Rows, order: Sequence[str], style: Style) -> dict[str, Any]:
    shown = [label for label in order if any(row["solver"] == label for row in rows)]
    solvers = Solvers(order, shown, style)
    cuts = sorted({row["x"] for row in rows})
    x = alt.X(
        "x:Q",
        title="layers removed",
        scale=alt.Scale(domain=[0, max(cuts) + 1], nice=False),
        axis=alt.Axis(values=cuts, grid=False, format="d"),
    )
    domain = [0, percent_domain([row["y"] for row in rows])[1]]
    y = alt.Y("y:Q", title="flips (%)", scale=alt.Scale(domain=domain, nice=False))
    titles = {"cut": "layers removed", "flips": "flips (%)", "lost": "right → wrong (%)"}
    tip = tips(solver="variant", **titles, won="wrong → right (%)", kl="KL (nats)")
    lines = [
        chart([row for row in rows if row["solver"] == label])
        .mark_line(strokeWidth=1.5, strokeDash=solvers.dash_of(label))
        .encode(x=x, y=y, color=solvers.colour)
        for label in shown
    ]
    marks = chart(rows).mark_point(filled=True, size=6 * style.bar, opacity=1)
    points = marks.encode(x=x, y=y, color=solvers.colour, shape=solvers.shape, tooltip=tip)
    layers = alt.layer(*lines, points)
    return finished(layers.properties(width=style.width, height=style.height), style)
