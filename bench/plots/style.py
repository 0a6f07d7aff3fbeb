"""Colours, shapes and sizes of the charts: for the page (CSS variables) and for print.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any common
kind of colour blindness tell apart. On white, the three palest are darkened until they reach the 3:1
that WCAG 2.2 asks of graphics. Colour is never alone: every solver has a shape and a dash as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LIGHT = {
    "surface": "#ffffff",
    "ink": "#1b2026",
    "muted": "#59616b",
    "line": "#d5d9de",
    "s0": "#0072b2",
    "s1": "#d55e00",
    "s2": "#009e73",
    "s3": "#c26f9d",
    "s4": "#665c00",
    "s5": "#2a8fcb",
    "s6": "#b87700",
}
DARK = {
    "surface": "#1b2026",
    "ink": "#e9edf1",
    "muted": "#aab2bd",
    "line": "#3a424c",
    "s0": "#0084cc",
    "s1": "#d55e00",
    "s2": "#009e73",
    "s3": "#cc79a7",
    "s4": "#f0e442",
    "s5": "#56b4e9",
    "s6": "#e69f00",
}
SERIES = 7
# Cividis, bright for small: https://doi.org/10.1371/journal.pone.0199239
STEPS = [
    "#fee838",
    "#e1cc55",
    "#c0b267",
    "#a09a70",
    "#838079",
    "#666970",
    "#4a5270",
    "#273d6d",
    "#00224e",
]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right"]
SHAPES += ["triangle-left"]  # 8 shapes, 7 colours and 5 dashes: 280 solvers until a look repeats
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 2]]
BASELINE = "baseline"


@dataclass(frozen=True)
class Style:
    """What a chart needs to know of where it will be shown; lengths in pixels, in print in points.

    ``width``: of the whole chart, axes included; ``height``: of what the axes enclose.
    """

    colours: dict[str, str]
    width: int | str
    height: int
    font_size: int
    bar: int
    label_limit: int
    font: str

    @property
    def config(self) -> dict[str, Any]:
        """The ``config`` of a Vega-Lite chart."""
        ink, muted, line = (self.colours[name] for name in ("ink", "muted", "line"))
        text = {"labelColor": ink, "titleColor": ink, "labelFontSize": self.font_size}
        text |= {"titleFontSize": self.font_size, "titleFontWeight": "normal"}
        return {
            "background": None,
            "font": self.font,
            "view": {"stroke": None},
            "axis": text | {"gridColor": line, "domainColor": muted, "tickColor": muted},
            "aria": False,  # the page says it in words and as a table
            "legend": text | {"orient": "bottom", "labelLimit": 150, "symbolLimit": 0},
            "text": {"color": ink, "fontSize": self.font_size},
            "header": text,
        }


FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
SCREEN = Style({name: f"var(--{name})" for name in LIGHT}, "container", 280, 12, 9, 150, FONT)
PAPER = Style(LIGHT, 240, 130, 8, 5, 90, "Liberation Sans, Arial, Helvetica, sans-serif")


def looks(labels: Sequence[str], style: Style) -> dict[str, dict[str, Any]]:
    """Label → colour, shape and dash: the baseline in grey, the others in order."""
    found = {BASELINE: {"colour": style.colours["muted"], "shape": "square", "dash": [1, 0]}}
    for index, label in enumerate(label for label in labels if label != BASELINE):
        found[label] = {
            "colour": style.colours[f"s{index % SERIES}"],
            "shape": SHAPES[index % len(SHAPES)],
            "dash": DASHES[index % len(DASHES)],
        }
    return found
