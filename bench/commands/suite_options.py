"""The suite argument and what the verbs that take it share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from replaceme.errors import InputError

if TYPE_CHECKING:
    from bench.matrix import Plan


SUITE = click.argument("suite", type=click.Path(path_type=Path))
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Result folder; default: runs/<suite name>."
)
ONLY = click.option(
    "--only", multiple=True, metavar="GLOB", help="Only cells named like MODEL/N/SOLVER."
)


LIMIT = click.option(
    "--limit", type=click.IntRange(1), help="Items of each task at most, instead of the suite's."
)


def planned(
    suite_file: Path, only: tuple[str, ...], out: Path | None, limit: int | None
) -> tuple[Plan, Path]:
    """A suite file as its cells, and the result folder."""
    from bench import matrix, suite

    plan = matrix.expand(suite.load(suite_file).limited(limit), only)
    out = out or Path("runs") / plan.suite.name
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder.")
    return plan, out
