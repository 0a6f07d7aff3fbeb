"""Quality against the tokens that variants were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from bench.plots.facts import Scored, scored
from bench.plots.figure import Figure, layers_removed, number, span
from bench.plots.marks import Rows, Solvers, chart, finished, percent_domain, tips
from bench.plots.style import Style
from bench.records import Record
from replaceme.recipe import digest

CAPTION = (
    "Mean of the tasks' primary metrics. A line is one training, from the variant that it began with; "
    "bars are 95 % intervals (± 1.96 standard errors)."
)
TITLE = "Quality against tokens trained on"
COLUMNS = ["training", "cut", "tokens", "avg (%)", "95 % interval"]


def against_tokens(name: str, model: str, records: Sequence[Record], style: Style) -> Figure | None:
    """The average of every variant of each training against its tokens; ``None`` where nothing was
    trained and scored."""
    lines = list_trainings(scored(records))
    if not lines:
        return None
    points = [_point(line, cell) for line, cells in lines.items() for cell in cells]
    keys = ("solver", "cut", "tokens", "avg", "interval")
    return Figure(
        name,
        model,
        TITLE,
        CAPTION,
        " ".join(f"{line}: {_tell(cells)}." for line, cells in lines.items()),
        _spec(points, [*lines], style),
        COLUMNS,
        [[point[key] for key in keys] for point in points],
    )


def list_trainings(cells: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Each training, by the name of its longest variant → its variants by tokens, first the one that it
    began with, where that is scored."""
    starts = {digest(cell.record.identity.canonical()): cell for cell in cells}
    groups: dict[str, list[Scored]] = {}
    for cell in cells:
        if cell.record.heal:
            groups.setdefault(digest(cell.record.identity.training.canonical()), []).append(cell)
    lines = {}
    for group in groups.values():
        trained = sorted(group, key=_tokens)
        start = starts.get(digest(trained[0].record.identity.before("heal").canonical()))
        line = f"{trained[-1].name}, {layers_removed(trained[-1].layers)}"
        lines[line] = ([start] if start else []) + trained
    return lines


def _tokens(cell: Scored) -> int:
    return cell.record.heal.tokens if cell.record.heal else 0


def _tell(cells: Sequence[Scored]) -> str:
    return ", ".join(f"{cell.average:.1f} % after {_tokens(cell):,} tokens" for cell in cells)


def _point(line: str, cell: Scored) -> dict[str, Any]:
    return {
        "x": _tokens(cell) / 1e3,
        "y": cell.average,
        "low": cell.low,
        "high": cell.high,
        "solver": line,
        "cut": str(cell.layers),
        "tokens": f"{_tokens(cell):,}",
        "avg": number(cell.average),
        "interval": span(cell.low, cell.high),
    }


def _spec(points: Rows, lines: list[str], style: Style) -> dict[str, Any]:
    ends = [end for p in points for end in (p["low"], p["y"], p["high"]) if end is not None]
    x = alt.X("x:Q", title="tokens trained on (thousands)", axis=alt.Axis(tickCount=6))
    scale = alt.Scale(domain=percent_domain(ends), nice=False, zero=False)
    y = alt.Y("y:Q", title="avg (%)", scale=scale, axis=alt.Axis(tickCount=6))
    colour = Solvers(lines, lines, style).colour
    shown = tips(solver="training", tokens="tokens", avg="avg (%)", interval="95 % interval")
    base = chart(points)
    return finished(
        alt.layer(
            base.mark_line(strokeWidth=1.5).encode(x=x, y=y, color=colour),
            base.mark_rule().encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour),
            base.mark_point(filled=True, size=6 * style.bar, opacity=1).encode(
                x=x, y=y, color=colour, tooltip=shown
            ),
        ).properties(width=style.width, height=style.height),
        style,
    )
