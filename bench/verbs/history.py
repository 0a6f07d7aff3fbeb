"""``history``: a metric over the commits of a results folder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from bench.verbs.output_options import FORMAT, OUTPUT, put_out
from replaceme.errors import InputError

PICTURES = ("png", "svg", "pdf")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--metric",
    default="average",
    show_default=True,
    help="A column of the leaderboard (average, rp, loss, speedup, …) or a task.",
)
@FORMAT
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it: FILE.png, .svg or .pdf.")
@OUTPUT
def history(folder: Path, metric: str, kind: str, plot: Path | None, output: Path | None) -> None:
    """Show a metric of every cell over the git commits that changed a results folder."""
    from bench.compare.over_commits import read_history
    from bench.render import history_table
    from replaceme.io.files import write_atomically

    if plot is not None and plot.suffix[1:] not in PICTURES:
        raise InputError(f"--plot {plot}: name a file that ends in .png, .svg or .pdf.")
    values = read_history(folder, metric)
    if plot is not None:
        from bench.plots.files import drawn
        from bench.plots.history_chart import chart

        figure = chart(values)
        if figure.spec is None:
            raise InputError(f"nothing to draw: {figure.missing}")
        write_atomically(plot, drawn(figure, plot.suffix[1:]))
    forms = {
        "table": history_table.text,
        "markdown": history_table.markdown,
        "json": history_table.to_json,
    }
    table = partial(history_table.render, values)
    put_out(output, partial(forms[kind], values), table if kind == "table" else None)
