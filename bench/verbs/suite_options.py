"""The suite argument and what the verbs that take it share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.verbs.completion import SuiteName, complete_cells
from replaceme.errors import InputError

if TYPE_CHECKING:
    from bench.suite.matrix import Plan


SUITE = click.argument("suite", type=SuiteName())
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Result folder; default: runs/<suite name>."
)
ONLY = click.option(
    "--only",
    multiple=True,
    metavar="GLOB",
    help="Only cells named like MODEL/N/SOLVER.",
    shell_complete=complete_cells,
)


LIMIT = click.option(
    "--limit", type=click.IntRange(1), help="Items of each task at most, instead of the suite's."
)


def expand_suite(
    suite_file: Path, only: tuple[str, ...], out: Path | None, limit: int | None
) -> tuple[Plan, Path]:
    """A suite file, or a shipped suite by its name, as its cells; and the result folder."""
    from bench.suite import matrix, suite
    from bench.suite.files import find

    plan = matrix.expand(suite.load(find(str(suite_file), Path())).limited(limit), only)
    out = out or Path("runs") / plan.suite.name
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder.")
    return plan, out
