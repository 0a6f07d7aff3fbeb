"""``schema``: JSON Schema of the files, for editors and other programs."""

from __future__ import annotations

import click


@click.command()
@click.argument("what", type=click.Choice(["record", "suite"]))
def schema(what: str) -> None:
    """Print the JSON Schema (draft 2020-12) of a record or of a suite file."""
    from bench.suite.schema import SCHEMAS, text

    click.echo(text(SCHEMAS[what]()), nl=False)
