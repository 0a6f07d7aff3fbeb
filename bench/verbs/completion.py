"""What the shell offers for the arguments of the verbs."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from replaceme.errors import InputError


class SuiteName(click.Path):
    """A suite file, or the name of a shipped suite."""

    name = "suite"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Shipped suites; files where none begins so."""
        from bench.suite.files import shipped

        names = [name for name in shipped() if name.startswith(incomplete)]
        found = [CompletionItem(name) for name in names]
        return found or super().shell_complete(ctx, param, incomplete)


def complete_solvers(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of solvers."""
    from replaceme.solvers import SOLVERS

    return [name for name in SOLVERS if name.startswith(incomplete)]


def complete_cells(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of the cells of the suite that is on the command line already."""
    from bench.suite import matrix, suite
    from bench.suite.files import find

    # with an option that has no value yet, click leaves the arguments unparsed
    words = [word for word in ctx.args if not word.startswith("-")]
    given = ctx.params.get("suite") or next(iter(words), None)
    if given is None:
        return []
    try:
        plan = matrix.expand(suite.load(find(str(given), Path())))
    except InputError:  # the command itself will say what is wrong
        return []
    return [cell.name for cell in plan.cells if cell.name.startswith(incomplete)]
