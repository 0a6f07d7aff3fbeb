"""The ``replaceme-bench`` command. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replaceme.errors import InputError, OutputError

if TYPE_CHECKING:
    from bench.estimate import Estimate
    from bench.matrix import Plan

EXIT_DIFFERENT, EXIT_WRONG, EXIT_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 130


class _Group(click.Group):
    """Turns the two user errors into a message and an exit code, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, OutputError) as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(EXIT_WRONG)
        except KeyboardInterrupt:
            resumes = ctx.invoked_subcommand == "run"
            hint = "; the same command continues where it stopped" if resumes else ""
            click.echo(f"Interrupted{hint}.", err=True)
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


LIMIT = click.option(
    "--limit", type=click.IntRange(1), help="Items of each task at most, instead of the suite's."
)


def _plan(
    suite_file: Path, only: tuple[str, ...], out: Path | None, limit: int | None
) -> tuple[Any, Path]:
    from bench import matrix, suite

    plan = matrix.expand(suite.load(suite_file).limited(limit), only)
    out = out or Path("runs") / plan.suite.name
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder.")
    return plan, out


@main.command()
@SUITE
@OUT
@ONLY
@LIMIT
def run(suite: Path, out: Path | None, only: tuple[str, ...], limit: int | None) -> None:
    """Run a suite; the same command again does only what is left."""
    from bench.running import run_plan

    plan, folder = _plan(suite, only, out, limit)
    sys.exit(EXIT_FAILED if run_plan(plan, folder) else 0)


@main.command()
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

    found, folder = _plan(suite, only, out, limit)
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


@main.command()
@SUITE
@OUT
@LIMIT
@click.option("--cell", required=True, metavar="NAME", help="MODEL/baseline or MODEL/N/SOLVER.")
def verify(suite: Path, out: Path | None, limit: int | None, cell: str) -> None:
    """Score a cell in one pass and by lm-eval on its checkpoint, and show the differences."""
    from rich.console import Console

    from bench.console import chatter_to
    from bench.verify_command import table
    from bench.verify_command import verify as verified

    found, folder = _plan(suite, (), out, limit)
    with chatter_to(folder / "logs" / "verify.log") as stderr:
        verdicts = verified(found, cell, folder, Console(file=stderr, highlight=False).print)
    Console(highlight=False).print(table(verdicts))
    if not all(verdict.agree for verdict in verdicts):
        click.echo("They differ by more than float rounding explains.", err=True)
        sys.exit(EXIT_DIFFERENT)


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


DTYPES = click.Choice(["float32", "bfloat16", "float16"])
FOLDER = click.Path(path_type=Path)


@main.command()
@click.argument("model", required=False)
@click.option("--config", type=FOLDER, help="YAML file with these options as keys; options win.")
@click.option("--revision", help="Revision of a hub model.")
@click.option("--layers", type=int, help="Number of layers to remove; the blocks are chosen.")
@click.option(
    "--blocks",
    multiple=True,
    metavar="START:END",
    help="Remove layers START to END-1 (0-based; END stays); may be repeated.",
)
@click.option("--solver", help="'replaceme-bench list solvers' names them; default: reconstruct.")
@click.option("--ridge", type=click.FloatRange(0), help="Ridge of the solver.")
@click.option("--out", type=FOLDER, help="Folder of the pruned checkpoint.")
@click.option("--selector", help="angular (default), angular-mean or perplexity.")
@click.option("--num-blocks", type=click.IntRange(1), help="Blocks of the same size; default: 1.")
@click.option("--calibration", help="File or hub data set; default: builtin:prose.")
@click.option("--subset", help="Configuration name of a hub data set.")
@click.option("--split", help="Split of a hub data set; default: train.")
@click.option("--calibration-revision", help="Revision of a hub data set.")
@click.option("--column", help="Column of the calibration data; default: text.")
@click.option("--samples", type=click.IntRange(1), help="Sequences at most; default: 192.")
@click.option("--max-length", type=click.IntRange(2), help="Tokens of a sequence; default: 256.")
@click.option("--batch-size", type=click.IntRange(1), help="Sequences per forward; default: 8.")
@click.option("--dtype", type=DTYPES, help="Of the checkpoint; default: the model's.")
@click.option("--calibration-dtype", type=DTYPES, help="To calibrate in; default: the checkpoint's.")
@click.option("--device", help="torch device; default: the GPU where there is one.")
@click.option("--seed", type=click.IntRange(0), help="Default: 42.")
@click.option("--compat", type=click.Choice(["reference"]), help="Do as the published code does.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model.")
@click.option("--transform-only", is_flag=True, help="Write what was fitted to the file OUT instead.")
@click.option("--overwrite", is_flag=True, help="Replace what is at OUT.")
def prune(config: Path | None, **options: Any) -> None:
    """Prune MODEL (hub id, folder, GGUF file) and write an ordinary checkpoint."""
    from bench.prune_command import options_of, prune_checkpoint

    given = {
        key: value
        for key, value in options.items()
        if value is not None and value is not False and value != ()
    }
    click.echo(prune_checkpoint(options_of(config, given)))


@main.command()
@click.argument("transform", type=FOLDER)
@click.argument("model")
@click.option("--out", type=FOLDER, required=True, help="Folder of the pruned checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace what is at OUT.")
def apply(transform: Path, model: str, out: Path, overwrite: bool) -> None:
    """Merge a TRANSFORM that 'prune --transform-only' saved into MODEL."""
    from bench.prune_command import apply_edit

    click.echo(apply_edit(transform, model, out, overwrite))
