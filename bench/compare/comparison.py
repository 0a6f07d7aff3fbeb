"""What a comparison of two result sets says: one table model, which every rendering shows."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from bench.names import cell_name
from bench.results import Key


class Marker(StrEnum):
    """The outcome for one value of one cell."""

    WORSE = "worse"
    FAILING = "newly failing"
    GONE = "gone"
    INCONCLUSIVE = "inconclusive"
    INCOMPARABLE = "not comparable"
    CHANGED = "changed"  # a quantity without chance, such as a number of parameters
    NEW = "new"
    BETTER = "better"
    SAME = "not significant"


SYMBOLS = {
    Marker.WORSE: "↓",
    Marker.FAILING: "✗",
    Marker.GONE: "−",
    Marker.INCONCLUSIVE: "~",
    Marker.INCOMPARABLE: "?",
    Marker.CHANGED: "≠",
    Marker.NEW: "+",
    Marker.BETTER: "↑",
    Marker.SAME: "=",
}


@dataclass(frozen=True)
class Options:
    """How a comparison judges.

    Attributes:
        alpha: probability of one false alarm or more among all scores that did not change.
        max_drop: points that a score may drop although significantly.
        allow_missing: whether what fails newly or is gone is no regression.
        latency_tolerance: factor that a latency may grow by although significantly.
        strict: whether a score that is inconclusive does not pass either.
    """

    alpha: float = 0.05
    max_drop: float = 0.0
    allow_missing: bool = False
    latency_tolerance: float = 1.05
    strict: bool = False


@dataclass(frozen=True)
class Change:
    """New against base with an interval at 95 %: a difference, or a ratio for times."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The outcome for one value of one cell, or for a cell as a whole.

    Attributes:
        kind: of ``what``, which is a task, the flips of one, a workload, a quantity, or empty for the
            cell.
        unit: of ``base`` and ``new``. ``change`` of a score is in points: hundredths of the mean score
            of an item, or hundredths of the items for flips, of which more are worse; a ratio for times;
            a difference in ``unit`` for quantities.
        losses, gains: items whose score got worse, or better; that are flipped in NEW only, or in BASE.
        inconclusive: no regression, yet a drop over ``max_drop`` is not excluded: the interval reaches
            past it, and the test found a smaller one, or would have missed it with more than 20 %
            probability.
        items_needed: so many items would decide what is inconclusive; see :mod:`bench.compare.power`.
        reason: why, where numbers do not say it.
        p_worse, p_better: of the one-sided tests, adjusted by Holm over the comparison.
        detectable: the smallest drop, in points, that the test would have found with 80 % power at the
            level of Holm's first step.
    """

    key: Key
    kind: Literal["cell", "score", "flips", "latency", "quantity"]
    what: str
    marker: Marker
    regression: bool = False
    inconclusive: bool = False
    reason: str | None = None
    metric: str | None = None
    unit: str = ""
    base: float | None = None
    new: float | None = None
    change: Change | None = None
    items: int | None = None
    losses: int | None = None
    gains: int | None = None
    test: str | None = None
    p_worse: float | None = None
    p_better: float | None = None
    detectable: float | None = None
    items_needed: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def cell(self) -> str:
        return cell_name(*self.key)


@dataclass(frozen=True)
class Averages:
    """Average and RP of a cell in percent, with intervals; told, not tested.

    ``rp`` is ``None`` for the baseline, and ``change`` where items were not the same.
    """

    key: Key
    average: tuple[float, float]
    change: Change | None
    rp: tuple[float, float] | None = None
    rp_change: Change | None = None

    @property
    def cell(self) -> str:
        return cell_name(*self.key)


@dataclass(frozen=True)
class Comparison:
    """All verdicts, worst first.

    Attributes:
        tests: scores that were tested, each in both directions.
        changes: cell → what differs in how it was made: solver, calibration, blocks.
    """

    base: str
    new: str
    options: Options
    tests: int
    verdicts: list[Verdict]
    averages: list[Averages]
    changes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def regressions(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.regression]

    @property
    def inconclusive(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.inconclusive]

    @property
    def more_flips(self) -> list[Verdict]:
        """Where significantly more answers differ from the intact model's."""
        return [v for v in self.verdicts if v.kind == "flips" and v.marker is Marker.WORSE]

    @property
    def passes(self) -> bool:
        """Whether a gate lets NEW through."""
        return not self.regressions and not (self.options.strict and self.inconclusive)

    @property
    def detectable(self) -> tuple[float, float] | None:
        """Median and largest of the drops, in points, that the tests of single scores could see."""
        seen = sorted(v.detectable for v in self.verdicts if v.detectable is not None)
        return (statistics.median(seen), seen[-1]) if seen else None

    def count(self, marker: Marker) -> int:
        return sum(verdict.marker is marker for verdict in self.verdicts)
