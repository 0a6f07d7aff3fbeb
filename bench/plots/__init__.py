"""Records → charts, for the page and as files for papers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from bench.names import make_distinct
from bench.plots import changed, distances, pareto, quality, serving, tasks, training
from bench.plots.facts import by_model, comparable, solver_names, workloads
from bench.plots.figure import Figure
from bench.plots.style import PAPER, SCREEN, Style
from bench.records import Record

__all__ = ["PAPER", "SCREEN", "Figure", "Style", "figures"]


def figures(records: Iterable[Record], style: Style) -> list[Figure]:
    """All charts of some records, model by model; a solver looks the same in all of them.

    Measurements of different engines or devices are never in one chart.
    """
    found = list(records)
    order = solver_names(found)
    drawn: list[Figure] = []
    for model, cells in by_model(found).items():
        drawn += _of_model(model, cells, order, style)
    return _named_apart(drawn)


def _of_model(
    model: str, cells: Sequence[Record], order: Sequence[str], style: Style
) -> Iterator[Figure]:
    yield quality.against_layers("quality", model, cells, order, style)
    if chart := changed.against_layers("changed-answers", model, cells, order, style):
        yield chart
    if chart := training.against_tokens("training", model, cells, style):
        yield chart
    yield from _served(model, cells, order, style)
    maps = distances.maps(cells)
    for chosen in maps.values() or [[]]:
        yield distances.heat_map("distances", model, chosen, style)
    for cut in sorted({cell.layers for cell in cells if cell.layers}) or [0]:
        yield tasks.of_cut(f"tasks-{cut}", model, cut, cells, order, style)


def _served(model: str, cells: Sequence[Record], order: Sequence[str], style: Style) -> Iterator[Figure]:
    groups = comparable(cells)
    if not groups:
        reason = "Nothing was served: there are no latencies and no memory."
        yield Figure("serving", model, "Latency and memory", "", missing=reason)
    for where, served in groups.items():
        loads = workloads(served)
        for load in loads:
            yield pareto.latency(f"latency-{load.label}", served, load, where, order, style)
        yield pareto.memory("memory", served, where, order, style)
        for load in loads:
            yield serving.breakdown(f"times-{load.label}", served, load, where, style)


def _named_apart(drawn: Sequence[Figure]) -> list[Figure]:
    """The figures with the model in their names, which are safe as names of files and all different."""
    taken: set[str] = set()
    named = []
    for figure in drawn:
        stem = re.sub(r"[^A-Za-z0-9.]+", "-", figure.model).strip("-.")[:80] or "model"
        named.append(replace(figure, name=make_distinct(f"{stem}-{figure.name}", taken)))
    return named
