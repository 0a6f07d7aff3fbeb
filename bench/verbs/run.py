"""``run``: the matrix of a suite."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.exits import EXIT_FAILED
from bench.verbs.suite_options import LIMIT, ONLY, OUT, SUITE, planned


@click.command()
@SUITE
@OUT
@ONLY
@LIMIT
@click.option("--retry-failed", is_flag=True, help="Do again what failed, though nothing has changed.")
def run(
    suite: Path, out: Path | None, only: tuple[str, ...], limit: int | None, retry_failed: bool
) -> None:
    """Run a suite; the same command again does only what is left."""
    from bench.run.running import run_plan

    plan, folder = planned(suite, only, out, limit)
    sys.exit(EXIT_FAILED if run_plan(plan, folder, retry_failed) else 0)
