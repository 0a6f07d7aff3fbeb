"""``verify``: one cell scored both ways."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.exits import EXIT_DIFFERENT
from bench.verbs.completion import cells
from bench.verbs.suite_options import LIMIT, OUT, SUITE, planned


@click.command()
@SUITE
@OUT
@LIMIT
@click.option(
    "--cell",
    required=True,
    metavar="NAME",
    help="MODEL/baseline or MODEL/N/SOLVER.",
    shell_complete=cells,
)
def verify(suite: Path, out: Path | None, limit: int | None, cell: str) -> None:
    """Score a cell as a run does and by lm-eval on its checkpoint, one request at a time."""
    from rich.console import Console

    from bench.console import chatter_to
    from bench.run.verify_command import table
    from bench.run.verify_command import verify as verified

    found, folder = planned(suite, (), out, limit)
    with chatter_to(folder / "logs" / "verify.log") as stderr:
        verdicts = verified(found, cell, folder, Console(file=stderr, highlight=False).print)
    Console(highlight=False).print(table(verdicts))
    if not all(verdict.agree for verdict in verdicts):
        click.echo("They differ by more than float rounding explains.", err=True)
        sys.exit(EXIT_DIFFERENT)
