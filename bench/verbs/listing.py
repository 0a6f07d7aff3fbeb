"""``list``: what can be named in a suite."""

from __future__ import annotations

import click


@click.command("list")
@click.argument("what", type=click.Choice(["solvers", "tasks", "suites"]))
@click.argument("word", required=False)
def list_names(what: str, word: str | None) -> None:
    """Show what can be named in a suite; WORD keeps the names that contain it."""
    from bench.suite import listing

    for line in listing.LISTS[what]():
        if word is None or word in line:
            click.echo(line)
