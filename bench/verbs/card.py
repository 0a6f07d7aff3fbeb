"""``card``: the model card of a pruned cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.verbs.completion import recorded_cells

if TYPE_CHECKING:
    from bench.records import Record


@click.command()
@click.argument("cell", shell_complete=recorded_cells)
@click.option("--results", help="Result folder, or REVISION:FOLDER; default: those in runs/.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write to this file, and .eval_results beside it.",
)
def card(cell: str, results: str | None, output: Path | None) -> None:
    """Print a model card for a pruned checkpoint, in the hub's format.

    With -o, scores on data sets of the hub are also written to YAML files in the folder .eval_results
    beside it, for the leaderboards of benchmarks.

    CELL is MODEL/N/SOLVER, the stem of a record, or the path of a record file.
    """
    from bench.card.command import make_card
    from replaceme.io.files import write_atomically

    text, record = make_card(cell, results)
    if output:
        write_atomically(output, text.encode())
        _write_eval_results(record, output.parent)
    else:
        click.echo(text, nl=False)


def _write_eval_results(record: Record, folder: Path) -> None:
    from bench.card import eval_results
    from bench.render.escape import visible
    from replaceme.io.files import write_atomically

    files, others = eval_results.files(record)
    for name, text in files.items():
        write_atomically(folder / eval_results.FOLDER / name, text.encode())
    if others:
        names = visible(", ".join(others))
        click.echo(
            f"Not in {eval_results.FOLDER}, for no data set of the hub is known: {names}", err=True
        )
