"""What ``replaceme-bench list`` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path


def solvers() -> Iterator[str]:
    from replaceme.solvers import SOLVERS

    for name, solver in SOLVERS.items():
        yield f"{name}: {solver.summary}"
        for field, info in solver.model_fields.items():
            yield f"    {name}.{field} = {info.default}: {info.description}"


def tasks() -> Iterator[str]:
    from bench.scoring.catalog import builtin_tasks
    from bench.scoring.presets import PRESETS

    for name, entries in PRESETS.items():
        yield f"{name} (preset): {', '.join(entry['task'] for entry in entries)}"
    yield from sorted(builtin_tasks())


def suites() -> Iterator[str]:
    yield from sorted(str(path) for path in Path("suites").glob("*.yaml"))


LISTS: dict[str, Callable[[], Iterator[str]]] = {"solvers": solvers, "tasks": tasks, "suites": suites}
