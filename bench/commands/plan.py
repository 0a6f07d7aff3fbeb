"""``plan``: the cells of a suite, and what a run would do."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.commands.suite_options import LIMIT, ONLY, OUT, SUITE, planned

if TYPE_CHECKING:
    from bench.estimate import Estimate
    from bench.matrix import Plan


@click.command()
@SUITE
@OUT
@ONLY
@LIMIT
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--estimate", is_flag=True, help="Tokenise the tasks; say tokens and seconds of scoring.")
def plan(
    suite: Path,
    out: Path | None,
    only: tuple[str, ...],
    limit: int | None,
    as_json: bool,
    estimate: bool,
) -> None:
    """Show the cells of a suite, what is done, and what would run; loads no model."""
    from bench.records import Store
    from bench.resume import stages_left

    found, folder = planned(suite, only, out, limit)
    store = Store(folder)
    left = {cell: stages_left(store.read(cell.stem), found) for cell in found.cells}
    if as_json:
        cells = [
            {
                "cell": cell.name,
                "record": str(store.path(cell.stem)),
                "identity": cell.identity,
                "left": stages,
            }
            for cell, stages in left.items()
        ]
        content = {"suite": found.suite.name, "out": str(folder), "cells": cells}
        if estimate:
            content["estimate"] = [asdict(line) for line in _estimated(found, folder)]
        click.echo(json.dumps(content, indent=1))
        return
    width = max(len(cell.name) for cell in left)
    for cell, stages in left.items():
        click.echo(f"{cell.name:{width}}  {', '.join(stages) if stages else 'done'}")
    done = sum(not stages for stages in left.values())
    click.echo(f"{len(left)} cells, {done} done. Records go to {folder / 'records'}.")
    if estimate:
        _print_estimate(_estimated(found, folder))


def _estimated(found: Plan, folder: Path) -> list[Estimate]:
    from bench.console import chatter_to
    from bench.estimate import estimate as estimated

    with chatter_to(Path(os.devnull)) as stderr:
        return estimated(found, folder, lambda text: click.echo(text, file=stderr))


def _print_estimate(estimates: list[Estimate]) -> None:
    from bench.console import duration

    for line in estimates:
        click.echo(
            f"{line.model}, {line.task}: {line.requests:,} requests, {line.tokens:,} tokens; "
            f"{line.variants} variants in one pass: about {duration(line.seconds)} on this machine"
        )
    click.echo(f"Scoring takes about {duration(sum(line.seconds for line in estimates))} in all.")
