"""What a chart is: a Vega-Lite specification with its words and its numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A chart, or the reason why there is none.

    ``alt`` says what the picture shows to those who do not see it; ``columns`` and ``rows`` are the same
    as a table. ``name`` is made of letters, digits, dots and hyphens, unique among the figures of a run.
    """

    name: str
    model: str
    title: str
    caption: str
    alt: str = ""
    spec: dict[str, Any] | None = None
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    missing: str | None = None


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def layers_removed(count: int) -> str:
    return f"{count} layer{'s' * (count != 1)} removed"


def span(low: float | None, high: float | None, digits: int = 1) -> str:
    return "–" if low is None or high is None else f"{low:,.{digits}f} to {high:,.{digits}f}"
