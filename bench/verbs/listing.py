"""``list``: what can be named in a suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click


@click.command("list")
@click.argument("what", type=click.Choice(["solvers", "tasks", "suites"]))
@click.argument("word", required=False)
def list_names(what: str, word: str | None) -> None:
    """Show what can be named in a suite; WORD keeps the names that contain it."""
    lists = {"solvers": list_solvers, "tasks": list_tasks, "suites": list_suites}
    for line in lists[what]():
        if word is None or word in line:
            click.echo(line)


def list_solvers() -> Iterator[str]:
    from replaceme.solvers import SOLVERS

    for name, solver in SOLVERS.items():
        yield f"{name}: {solver.summary}"
        for field, info in solver.model_fields.items():
            yield f"    {name}.{field} = {info.default}: {info.description}"


def list_tasks() -> Iterator[str]:
    from bench.tasks.index import read_builtin
    from bench.tasks.presets import PRESETS

    for name, entries in PRESETS.items():
        yield f"{name} (preset): {', '.join(entry['task'] for entry in entries)}"
    for name, found in sorted(read_builtin().items()):
        of = f" ({found.kind} of {len(found.members)})" if found.members else ""
        yield f"{name}{of}"


def list_suites() -> Iterator[str]:
    """Those that are shipped, with their first line; a name does as well as a path."""
    from bench.suite.files import shipped

    for name, path in shipped().items():
        comments = (line.removeprefix("#").strip() for line in path.read_text("utf-8").splitlines())
        summary = next(line for line in comments if not line.startswith("yaml-language-server"))
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        yield f"{name}: {summary} ({shown})"
