"""``compare``: whether quality or speed regressed between two result sets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from bench.exits import EXIT_DIFFERENT
from bench.verbs.output_options import FORMAT, JSON, OUTPUT, PROBABILITY, put_out
from replaceme.errors import InputError


@click.command()
@click.argument("base")
@click.argument("new")
@click.option(
    "--alpha",
    type=PROBABILITY,
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
@FORMAT
@JSON
@click.option("--all", "everything", is_flag=True, help="Show every value that is not significant.")
@OUTPUT
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
    from bench.compare.compare import compare as compared
    from bench.compare.comparison import Options
    from bench.render import comparison_json, comparison_markdown, comparison_terminal
    from bench.results import open_results

    if strict and not max_drop:
        raise InputError(
            "--strict: say with --max-drop how many points a score may drop; that nothing at all was "
            "lost can be shown by no number of items."
        )
    options = Options(alpha, max_drop, allow_missing, latency_tolerance, strict)
    comparison = compared(open_results(base), open_results(new), options)
    forms: dict[str, Callable[[], str]] = {
        "table": lambda: comparison_terminal.text(comparison, everything),
        "markdown": lambda: comparison_markdown.render(comparison),
        "json": lambda: comparison_json.render(comparison),
    }
    kind = "json" if as_json else kind
    table = partial(comparison_terminal.render, comparison, everything=everything)
    put_out(output, forms[kind], table if kind == "table" else None)
    if not comparison.passes:
        sys.exit(EXIT_DIFFERENT)
