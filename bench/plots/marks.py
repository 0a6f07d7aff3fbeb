"""Pieces that several charts share: data, the encoding of solvers, scales, error bars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import altair as alt

from bench.plots.style import Style, looks

Rows = list[dict[str, Any]]


def chart(rows: Rows) -> alt.Chart:
    return alt.Chart(alt.Data(values=rows))


class Solvers:
    """How the solvers of a chart look; ``shown`` are the labels in its legend."""

    def __init__(self, labels: Sequence[str], shown: Sequence[str], style: Style) -> None:
        looks_of = looks(labels, style)
        self.shown = list(shown)
        self._looks = [looks_of[label] for label in shown]
        self._columns, self._room = _legend_columns(self.shown, style), _legend_room(style)

    def _scale(self, key: str) -> alt.Scale:
        return alt.Scale(domain=self.shown, range=[look[key] for look in self._looks])

    @property
    def _legend(self) -> alt.Legend:
        limit = self._room if self._columns == 1 else alt.Undefined
        return alt.Legend(title=None, columns=self._columns, labelLimit=limit)

    @property
    def colour(self) -> alt.Color:
        return alt.Color("solver:N", scale=self._scale("colour"), legend=self._legend)

    @property
    def shape(self) -> alt.Shape:
        return alt.Shape("solver:N", scale=self._scale("shape"), legend=self._legend)

    @property
    def dash(self) -> alt.StrokeDash:
        return alt.StrokeDash("solver:N", scale=self._scale("dash"), legend=None)

    def dash_of(self, label: str) -> list[int]:
        """The dash of a line that is a layer of its own, where an encoding would change the legend."""
        dash: list[int] = self._looks[self.shown.index(label)]["dash"]
        return dash


def _legend_columns(shown: Sequence[str], style: Style) -> int:
    """How many entries stand side by side under a chart."""
    letter = 0.55 * style.font_size
    entry = min(style.label_limit, letter * max(map(len, shown), default=1)) + 2.5 * style.font_size
    return max(1, int(_legend_room(style) // entry))


def _legend_room(style: Style) -> int:
    """Pixels under a chart, on the page under one of 300."""
    return 300 if style.width == "container" else int(style.width) - 25


def tips(**named: str) -> list[alt.Tooltip]:
    """Tooltip lines: ``tips(solver="variant", y="avg (%)")``. The fields hold texts."""
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in named.items()]


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """A domain that leaves room on both sides of some values."""
    low, high = min(values), max(values)
    room = share * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def percent_domain(values: Sequence[float]) -> tuple[float, float]:
    """A padded domain within 0 to 100."""
    low, high = padded(values)
    return max(0.0, low), min(100.0, high) if max(values) <= 100 else high


def finished(layers: alt.LayerChart | alt.FacetChart, style: Style) -> dict[str, Any]:
    """The Vega-Lite specification of a chart at the size and with the look of ``style``."""
    with alt.data_transformers.disable_max_rows():
        content: dict[str, Any] = layers.to_dict()
    _share_data(content)
    content["config"] = style.config
    if "layer" in content:  # of several panels, each has its own width
        content["autosize"] = {"type": "fit-x", "contains": "padding"}
    content.pop("$schema", None)
    return content


def _share_data(content: dict[str, Any]) -> None:
    """Let the layers of a specification that show the same rows refer to one copy of them."""
    names: dict[str, str] = {}
    datasets: dict[str, Any] = {}

    def visit(part: Any) -> None:
        if isinstance(part, list):
            for item in part:
                visit(item)
        elif isinstance(part, dict):
            values = part["data"].get("values") if isinstance(part.get("data"), dict) else None
            if values is not None:
                name = names.setdefault(json.dumps(values), f"rows{len(names)}")
                datasets[name] = values
                part["data"] = {"name": name}
            for key, item in part.items():
                if key != "data":
                    visit(item)

    visit(content)
    content["datasets"] = {
        name: [{key: _short(item) for key, item in row.items()} for row in rows]
        for name, rows in datasets.items()
    }


def _short(item: Any) -> Any:
    return float(f"{item:.7g}") if isinstance(item, float) else item
