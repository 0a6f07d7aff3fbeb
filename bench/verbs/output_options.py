"""Options of the verbs that say something about results, and how they put out what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

PROBABILITY = click.FloatRange(0, 1, min_open=True, max_open=True)
FORMAT = click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "markdown", "json"]),
    default="table",
    show_default=True,
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
OUTPUT = click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file.")


def put_out(
    output: Path | None, text: Callable[[], str], render: Callable[[Console], None] | None = None
) -> None:
    """Write a text to a file, or print it.

    Args:
        output: the file; ``None`` for stdout.
        text: what makes the text.
        render: what prints it on stdout instead, with the colours and at the width of a terminal.
    """
    from bench import console
    from replaceme.io.files import write_atomically

    if output is not None:
        write_atomically(output, text().encode())
        return
    with console.output() as stdout:
        if render is not None:
            render(stdout)
        else:
            click.echo(text(), nl=False)
