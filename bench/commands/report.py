"""``report``: the leaderboard of a result folder."""

from __future__ import annotations

from pathlib import Path

import click

from replaceme.errors import InputError


@click.command()
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
