"""The words and rows of a comparison that its terminal and Markdown renderings share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.compare.comparison import SYMBOLS, Averages, Change, Comparison, Marker, Verdict
from bench.names import short_task_name

HEADS = ["", "cell", "value", "base", "new", "change", "95 % interval", "p", "detects", "needs"]
AVERAGE_HEADS = ["cell", "avg", "new", "change", "95 % interval", "RP", "new", "change", "95 % interval"]
LEFT = (0, 1, 2)  # columns of texts
FEW = 10  # rows that are shown of those without significance
NOUNS = {
    "score": ("score", "scores"),
    "latency": ("latency", "latencies"),
    "cell": ("cell", "cells"),
    "quantity": ("quantity", "quantities"),
}


@dataclass(frozen=True)
class Line:
    """A verdict as texts, one for each of ``HEADS``."""

    verdict: Verdict
    texts: list[str]


def summary(comparison: Comparison) -> str:
    """The verdict in one sentence."""
    found = comparison.regressions
    parts = []
    for kind, nouns in NOUNS.items():
        for marker in (Marker.WORSE, Marker.FAILING, Marker.GONE):
            if count := sum(v.kind == kind and v.marker is marker for v in found):
                parts.append(f"{count} {nouns[count > 1]} {marker.value}")
    if parts:
        return f"Regression: {', '.join(parts)}."
    if open_ := len(comparison.inconclusive):
        strict = ", which --strict does not let pass" if comparison.options.strict else ""
        parts.append(f"{open_} {NOUNS['score'][open_ > 1]} inconclusive{strict}")
    if flips := len(comparison.more_flips):
        parts.append(f"more answers flipped in {flips} {NOUNS['score'][flips > 1]}")
    if unknown := comparison.count(Marker.INCOMPARABLE):
        parts.append(f"{unknown} values could not be compared")
    return f"No regression, but {', '.join(parts)}." if parts else "No regression."


def counts(comparison: Comparison) -> str:
    """How often each marker occurs, with its symbol."""
    found = [(marker, comparison.count(marker)) for marker in Marker]
    return ", ".join(f"{SYMBOLS[marker]} {count} {marker.value}" for marker, count in found if count)


def basis(comparison: Comparison) -> list[str]:
    """What the verdict rests on, and how much could have been seen; a sentence each."""
    options, lines = comparison.options, []
    scores = [v for v in comparison.verdicts if v.kind == "score" and v.test]
    if scores:
        drop = f" by more than {options.max_drop:g} points" if options.max_drop else ""
        lines.append(
            f"{comparison.tests} scores, paired item by item: a regression is worse{drop} at α = "
            f"{options.alpha:g}, one-sided, Holm's correction over all of them. Metrics: "
            f"{', '.join(dict.fromkeys(f'{short_task_name(v.what)} {v.metric}' for v in scores))}."
        )
    if seen := comparison.detectable:
        same = any(not v.losses and not v.gains for v in scores)
        lines.append(
            f"detects: the smallest drop in points that would have been found with 80 % power; median "
            f"{seen[0]:.1f}, largest {seen[1]:.1f}; smaller drops may be there unseen"
            + (". Where no item differs, it is the best case, losses alone." if same else ".")
        )
    if few := sum(v.detectable is None for v in scores):
        lines.append(f"{few} scores: no drop of any size would have been found with 80 % power.")
    if needs := [v.items_needed for v in comparison.inconclusive if v.items_needed]:
        lines.append(
            f"inconclusive: a drop by more than {options.max_drop:g} points is not excluded, for the "
            "interval reaches past it, nor would it have been found with 80 % power. needs: items "
            "with which that would be decided, if further ones change as often as these; "
            f"largest {_items(max(needs))}."
        )
    if any(v.metric and v.unit == "" for v in scores):
        lines.append("A point is 0.01 of an item's score: of a perplexity, 0.01 nats, about 1 %.")
    if flips := sum(v.kind == "flips" for v in comparison.verdicts):
        lines.append(
            f"flips: items whose chosen answer is not that of the intact model of the same results; "
            f"{flips} tasks, paired item by item, one-sided, Holm's correction over these. More of them "
            "are told and are no regression: an answer that changes may get right."
        )
    if any(v.kind == "latency" and v.test for v in comparison.verdicts):
        lines.append(
            "Latencies: medians of engine processes, geometric mean; a regression is slower by more "
            f"than the factor {options.latency_tolerance:g} with its whole interval."
        )
    return lines


def lines(comparison: Comparison) -> tuple[list[Line], list[Line], list[Line]]:
    """The rows with a marker to look at, those without significance, and those equal item by item."""
    several = len({verdict.key[0] for verdict in comparison.verdicts}) > 1
    found: tuple[list[Line], list[Line], list[Line]] = ([], [], [])
    for verdict in comparison.verdicts:
        equal = verdict.kind in ("score", "flips") and not verdict.losses and not verdict.gains
        part = 0 if verdict.marker is not Marker.SAME else 2 if equal else 1
        found[part].append(_line(verdict, several))
    return found


def _line(verdict: Verdict, several: bool) -> Line:
    change = verdict.change
    latency = verdict.kind == "latency"
    texts = [
        SYMBOLS[verdict.marker] + ("!" if verdict.regression else ""),
        cell(verdict.cell, several),
        short_task_name(verdict.what) or ("serving" if latency else "–"),
        _number(verdict.base, verdict),
        _number(verdict.new, verdict),
        _change(change, latency),
        _interval(change, latency),
        _probability(verdict),
        "" if verdict.detectable is None else f"{verdict.detectable:.1f}",
        "" if verdict.items_needed is None else _items(verdict.items_needed),
    ]
    return Line(verdict, texts)


def table(comparison: Comparison, told: Sequence[Line]) -> list[list[str]]:
    """Heads and rows; without what is needed where nothing is inconclusive."""
    width = len(HEADS) if comparison.inconclusive else len(HEADS) - 1
    return [texts[:width] for texts in (HEADS, *(line.texts for line in told))]


def brief(told: Sequence[Line]) -> list[Line]:
    """The lines that got worse or better, and a few of each other kind."""
    kept: list[Line] = []
    for line in told:
        alike = sum(other.verdict.marker is line.verdict.marker for other in kept)
        weighty = line.verdict.regression or line.verdict.marker in (Marker.WORSE, Marker.BETTER)
        if weighty or alike < FEW:
            kept.append(line)
    return kept


def remarks(comparison: Comparison) -> list[str]:
    """Reasons and notes, each with the values that it is about."""
    several = len({verdict.key[0] for verdict in comparison.verdicts}) > 1
    about: dict[str, list[str]] = {}
    for verdict in comparison.verdicts:
        name = f"{cell(verdict.cell, several)} {short_task_name(verdict.what)}".strip()
        for remark in filter(None, (verdict.reason, *verdict.notes)):
            about.setdefault(remark, []).append(name)
    return [f"{remark} ({_listed(names)})" for remark, names in about.items()]


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - FEW // 2
    return ", ".join(names) if rest <= 1 else f"{', '.join(names[: FEW // 2])} and {rest} more"


def cell(name: str, several: bool) -> str:
    """A cell's name, without the model where there is one only."""
    return name if several else name.split("/", 1)[1]


def _number(value: float | None, verdict: Verdict) -> str:
    if value is None:
        return "–" if verdict.kind != "cell" else ""
    digits = 1 if verdict.kind in ("score", "flips") and abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def _items(count: int) -> str:
    return f"{count:,}" if count < 1e6 else f"{count / 1e6:,.0f} M"


def _change(change: Change | None, ratio: bool = False) -> str:
    if change is None:
        return ""
    return f"×{change.value:.2f}" if ratio else signed(change.value)


def _interval(change: Change | None, ratio: bool = False) -> str:
    if change is None or change.low is None or change.high is None:
        return ""
    ends = [f"{end:.2f}" if ratio else signed(end) for end in (change.low, change.high)]
    return " to ".join(ends)


def signed(value: float) -> str:
    """With its sign, and a real minus: −1.5, +0.3, 0.0."""
    digits = 1 if abs(value) < 1000 else 0
    text = f"{value:+,.{digits}f}".replace("-", "−")
    return text[1:] if float(f"{value:.1f}") == 0 else text


def _probability(verdict: Verdict) -> str:
    """Of the direction that the value went."""
    change = verdict.change.value if verdict.change else 0.0
    if verdict.kind == "latency":
        down = change > 1
    else:
        down = change >= 0 if verdict.kind == "flips" else change <= 0
    p = verdict.p_worse if down else verdict.p_better
    if p is None:
        return ""
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def average_rows(comparison: Comparison) -> tuple[list[list[str]], int]:
    """Cells whose average changed, as texts for ``AVERAGE_HEADS``, and how many are as they were."""
    several = len({found.key[0] for found in comparison.averages}) > 1
    changed = [found for found in comparison.averages if found.average[0] != found.average[1]]
    changed.sort(key=lambda found: found.average[1] - found.average[0])
    rows = [_average_row(found, several) for found in changed]
    return rows, len(comparison.averages) - len(changed)


def _average_row(found: Averages, several: bool) -> list[str]:
    return [
        cell(found.cell, several),
        *_both(found.average, found.change),
        *(_both(found.rp, found.rp_change) if found.rp else [""] * 4),
    ]


def _both(values: Sequence[float], change: Change | None) -> list[str]:
    known = change or Change(values[1] - values[0])
    return [f"{values[0]:.1f}", f"{values[1]:.1f}", _change(known), _interval(known)]


def made_differently(comparison: Comparison) -> list[str]:
    """What differs in how cells were made: ``solver.version: 1 → 2 (6/lstsq, 9/lstsq)``."""
    several = len({found.split("/")[0] for found in comparison.changes}) > 1
    cells: dict[str, list[str]] = {}
    for name, changes in comparison.changes.items():
        for change in changes:
            cells.setdefault(change, []).append(cell(name, several))
    return [f"{change} ({_listed(names)})" for change, names in cells.items()]
