"""The ``replaceme-bench`` command. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from replaceme.errors import InputError, OutputError

EXIT_WRONG, EXIT_FAILED, EXIT_INTERRUPTED = 2, 3, 130


class _Group(click.Group):
    """Turns the two user errors into a message and an exit code, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, OutputError) as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(EXIT_WRONG)
        except KeyboardInterrupt:
            click.echo("Interrupted; the same command continues where it stopped.", err=True)
            ctx.exit(EXIT_INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="replaceme")
def main() -> None:
    """Depth-prune language models and measure whether the result is good enough."""


SUITE = click.argument("suite", type=click.Path(path_type=Path))
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Result folder; default: runs/<suite name>."
)
ONLY = click.option(
    "--only", multiple=True, metavar="GLOB", help="Only cells named like MODEL/N/SOLVER."
)


def _plan(suite_file: Path, only: tuple[str, ...], out: Path | None) -> tuple[Any, Path]:
    from bench import matrix, suite

    plan = matrix.expand(suite.load(suite_file), only)
    out = out or Path("runs") / plan.suite.name
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder.")
    return plan, out


@main.command()
@SUITE
@OUT
@ONLY
def run(suite: Path, out: Path | None, only: tuple[str, ...]) -> None:
    """Run a suite; the same command again does only what is left."""
    from bench.running import run_plan

    plan, folder = _plan(suite, only, out)
    sys.exit(EXIT_FAILED if run_plan(plan, folder) else 0)


@main.command()
@SUITE
@OUT
@ONLY
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(suite: Path, out: Path | None, only: tuple[str, ...], as_json: bool) -> None:
    """Show the cells of a suite, what is done, and what would run; loads no model."""
    from bench.records import Store
    from bench.resume import stages_left

    found, folder = _plan(suite, only, out)
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
        click.echo(json.dumps({"suite": found.suite.name, "out": str(folder), "cells": cells}, indent=1))
        return
    width = max(len(cell.name) for cell in left)
    for cell, stages in left.items():
        click.echo(f"{cell.name:{width}}  {', '.join(stages) if stages else 'done'}")
    done = sum(not stages for stages in left.values())
    click.echo(f"{len(left)} cells, {done} done. Records go to {folder / 'records'}.")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "markdown", "csv", "json", "svg"]),
    default="table",
    show_default=True,
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file.")
def report(folder: Path, kind: str, output: Path | None) -> None:
    """Print the leaderboard of a result folder, from its records alone."""
    from rich.console import Console

    from bench import leaderboard
    from bench.records import Store, write_atomically
    from bench.render import FORMATS, terminal

    records = Store(folder).all()
    if not records:
        raise InputError(f"{folder} holds no records; name a folder that 'replaceme-bench run' wrote.")
    table = leaderboard.build(records.values())
    if kind == "table" and output is None:
        terminal.render(table, Console(highlight=False))
        return
    text = terminal.text(table) if kind == "table" else FORMATS[kind](table)
    if output:
        write_atomically(output, text.encode())
    else:
        click.echo(text, nl=False)


@main.command("list")
@click.argument("what", type=click.Choice(["solvers", "tasks", "suites"]))
@click.argument("word", required=False)
def list_names(what: str, word: str | None) -> None:
    """Show what can be named in a suite; WORD keeps the names that contain it."""
    from bench import listing

    for line in listing.LISTS[what]():
        if word is None or word in line:
            click.echo(line)


@main.command()
@click.argument("model")
@click.option("--layers", type=int, help="Number of layers to remove; the block is chosen.")
@click.option("--blocks", metavar="START:END", help="Remove layers START to END-1 (0-based; END stays).")
@click.option("--solver", default="lstsq", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--selector", type=click.Choice(["angular"]), default="angular", show_default=True)
@click.option("--calibration", default="builtin:prose", show_default=True, help="File or hub data set.")
@click.option("--column", default="text", show_default=True, help="Column of the calibration data.")
@click.option("--samples", type=click.IntRange(1), default=192, show_default=True)
@click.option("--max-length", type=click.IntRange(2), default=256, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]))
@click.option("--device", help="torch device; default: the GPU where there is one.")
@click.option("--ridge", type=click.FloatRange(0), help="Ridge of the lstsq solver.")
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True)
@click.option("--compat", type=click.Choice(["reference"]), help="Do as the published code does.")
@click.option("--overwrite", is_flag=True, help="Replace the output folder.")
def prune(**options: Any) -> None:
    """Prune MODEL (hub id, folder, GGUF file) and write an ordinary checkpoint."""
    from bench.prune_command import prune_checkpoint

    click.echo(prune_checkpoint(**options))
