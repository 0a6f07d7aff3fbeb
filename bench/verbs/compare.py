"""``compare``: whether quality or speed regressed between two result sets."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.exits import EXIT_DIFFERENT
from replaceme.errors import InputError


@click.command()
@click.argument("base")
@click.argument("new")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Probability of any false alarm among scores that did not change.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Points that a score may drop, even significantly.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Exit code 1 also where a drop over --max-drop is neither found nor excluded.",
)
@click.option("--allow-missing", is_flag=True, help="What fails newly or is gone is no regression.")
@click.option(
    "--latency-tolerance",
    type=click.FloatRange(1),
    default=1.05,
    show_default=True,
    help="Factor that a latency may grow by.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "markdown", "json"]),
    default="table",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
@click.option("--all", "everything", is_flag=True, help="Show every value that is not significant.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file.")
def compare(
    base: str,
    new: str,
    alpha: float,
    max_drop: float,
    strict: bool,
    allow_missing: bool,
    latency_tolerance: float,
    kind: str,
    as_json: bool,
    everything: bool,
    output: Path | None,
) -> None:
    """Say whether NEW is worse than BASE; exit code 1 if so.

    With --max-drop, a score is inconclusive where a larger drop is neither found nor excluded: the table
    says how many items would decide.

    BASE and NEW are result folders, record files, or REVISION:PATH for either as git has it, such as
    HEAD~1:results/demo.
    """
    from bench import console
    from bench.compare.compare import compare as compared
    from bench.compare.comparison import Options
    from bench.render import comparison_json, comparison_markdown, comparison_terminal
    from bench.results import open_results
    from replaceme.io.files import write_atomically

    if strict and not max_drop:
        raise InputError(
            "--strict: say with --max-drop how many points a score may drop; that nothing at all was "
            "lost can be shown by no number of items."
        )
    options = Options(alpha, max_drop, allow_missing, latency_tolerance, strict)
    found = compared(open_results(base), open_results(new), options)
    text = None
    if as_json or kind == "json":
        text = comparison_json.render(found)
    elif kind == "markdown":
        text = comparison_markdown.render(found)
    elif output is not None:
        text = comparison_terminal.text(found, everything)
    if output is not None and text is not None:
        write_atomically(output, text.encode())
    else:
        with console.output() as stdout:
            if text is None:
                comparison_terminal.render(found, stdout, everything)
            else:
                click.echo(text, nl=False)
    if not found.passes:
        sys.exit(EXIT_DIFFERENT)
