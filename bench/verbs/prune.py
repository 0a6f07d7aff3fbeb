"""``prune`` and ``apply``: one checkpoint, without the harness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.verbs.completion import complete_solvers

DTYPES = click.Choice(["float32", "bfloat16", "float16"])
FOLDER = click.Path(path_type=Path)


@click.command()
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
@click.option(
    "--solver",
    help="'replaceme-bench list solvers' names them; default: reconstruct.",
    shell_complete=complete_solvers,
)
@click.option("--ridge", type=click.FloatRange(0), help="Ridge of the solver.")
@click.option("--out", type=FOLDER, help="Folder of the pruned checkpoint.")
@click.option("--selector", help="angular (default), angular-mean or perplexity.")
@click.option("--num-blocks", type=click.IntRange(1), help="Blocks of the same size; default: 1.")
@click.option("--calibration", help="File or hub data set; default: builtin:prose.")
@click.option("--subset", help="Configuration name of a hub data set.")
@click.option("--split", help="Split, or a part such as train[:1000]; default: train.")
@click.option("--streaming", is_flag=True, help="Read a hub data set row by row, not all of it.")
@click.option("--calibration-revision", help="Revision of a hub data set.")
@click.option("--column", help="Column of the calibration data; default: text.")
@click.option("--samples", type=click.IntRange(1), help="Sequences at most; default: 192.")
@click.option("--max-length", type=click.IntRange(2), help="Tokens of a sequence; default: 256.")
@click.option("--batch-size", type=click.IntRange(1), help="Sequences per forward; default: 8.")
@click.option("--dtype", type=DTYPES, help="Of the checkpoint; default: the model's.")
@click.option("--calibration-dtype", type=DTYPES, help="To calibrate in; default: the checkpoint's.")
@click.option("--device", help="torch device; default: the GPU where there is one.")
@click.option("--seed", type=click.IntRange(0), help="Default: 42.")
@click.option("--date", metavar="YYYY-MM-DD", help="Today in chat templates; default: 2024-07-26.")
@click.option("--compat", type=click.Choice(["reference"]), help="Do as the published code does.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model.")
@click.option("--transform-only", is_flag=True, help="Write what was fitted to the file OUT instead.")
@click.option("--overwrite", is_flag=True, help="Replace what is at OUT.")
def prune(config: Path | None, **options: Any) -> None:
    """Prune MODEL (hub id, folder, GGUF file) and write an ordinary checkpoint."""
    from bench.run.prune_command import options_of, prune_checkpoint

    given = {
        key: value
        for key, value in options.items()
        if value is not None and value is not False and value != ()
    }
    click.echo(prune_checkpoint(options_of(config, given)))


@click.command()
@click.argument("transform", type=FOLDER)
@click.argument("model")
@click.option("--out", type=FOLDER, required=True, help="Folder of the pruned checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace what is at OUT.")
@click.option("--trust-remote-code", is_flag=True, help="Run code that comes with the model.")
def apply(transform: Path, model: str, out: Path, overwrite: bool, trust_remote_code: bool) -> None:
    """Merge a TRANSFORM that 'prune --transform-only' saved into MODEL."""
    from bench.run.prune_command import apply_edit

    click.echo(apply_edit(transform, model, out, overwrite, trust_remote_code))
