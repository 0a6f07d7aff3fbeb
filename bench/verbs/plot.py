"""``plot``: the charts of a result folder as files for papers."""

from __future__ import annotations

from pathlib import Path

import click

from replaceme.errors import InputError

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("folder", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Folder of the files.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["png", "svg", "pdf"]),
    default="png",
    show_default=True,
    help="PNGs have 300 pixels per inch.",
)
def plot(folder: Path, out: Path, kind: str) -> None:
    """Draw the charts of a result folder, one file each, at the width of a paper's column.

    Prints the names of the files; a chart that cannot be drawn is named on stderr with the reason.
    """
    from bench.plots import PAPER, figures
    from bench.plots.files import drawn
    from bench.store import Store
    from replaceme.io.files import write_atomically

    records = Store(folder).all()
    if not records:
        raise InputError(f"{folder} holds no records; name a folder that 'replaceme-bench run' wrote.")
    for figure in figures(records.values(), PAPER):
        if figure.spec is None:
            click.echo(f"{figure.name}: not drawn. {figure.missing}", err=True)
            continue
        path = out / f"{figure.name}.{kind}"
        write_atomically(path, drawn(figure, kind))
        click.echo(path)
