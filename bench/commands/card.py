"""``card``: the model card of a pruned cell."""

from __future__ import annotations

from pathlib import Path

import click

from bench.commands.completion import recorded_cells


@click.command()
@click.argument("cell", shell_complete=recorded_cells)
@click.option("--results", help="Result folder, or REVISION:FOLDER; default: those in runs/.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file.")
def card(cell: str, results: str | None, output: Path | None) -> None:
    """Print a model card for a pruned checkpoint, in the hub's format.

    CELL is MODEL/N/SOLVER, the stem of a record, or the path of a record file.
    """
    from bench.card.command import make_card
    from replaceme.files import write_atomically

    text = make_card(cell, results)
    if output:
        write_atomically(output, text.encode())
    else:
        click.echo(text, nl=False)
