"""``report``: the leaderboard of result folders, and published tables beside it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.render.formats import FORMATS
from bench.verbs.output_options import put_out
from replaceme.errors import InputError

if TYPE_CHECKING:
    from bench.leaderboard.table import Mark, Table
    from bench.leaderboard.view import Grouping
    from bench.results import Results

KINDS = ["table", *FORMATS, "html", "lm-eval"]


@click.command()
@click.argument("sources", metavar="DIR|TABLE...", nargs=-1, required=True)
@click.option("--format", "kind", type=click.Choice(KINDS), default="table", show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write to this file; of lm-eval: to this folder.",
)
@click.option("--columns", help="Show these, such as label,layers,task,average,rp.")
@click.option("--sort", "key", help="Sort by this column, descending with - before it: -average.")
@click.option(
    "--group-by",
    type=click.Choice(["model", "layers", "solver", "none"]),
    default="model",
    show_default=True,
    help="One table each.",
)
@click.option(
    "--best",
    type=click.Choice(["bold", "star", "none"]),
    help="Mark the best of each cut: its value in every column (bold), or the row of the best average "
    "(star). [default: bold in latex, star elsewhere]",
)
@click.option(
    "--together", is_flag=True, help="Rank what was trained after pruning together with what was not."
)
@click.option("--published", is_flag=True, help="Quote what was published about the same models.")
def report(
    sources: tuple[str, ...],
    kind: str,
    output: Path | None,
    columns: str | None,
    key: str | None,
    group_by: Grouping,
    best: Mark | None,
    together: bool,
    published: bool,
) -> None:
    """Print the leaderboard of result folders from their records alone, or published tables.

    Each DIR is a folder that 'run' wrote, a record file, or REVISION:PATH for either as git has it. A
    TABLE is the name of a published one, such as paper-main, or 'published' for all; it is shown apart,
    marked as quoted, and in no ranking. 'lm-eval' writes results_*.json and samples_*.jsonl as its
    --output_path and --log_samples do, a folder for each cell.
    """
    from dataclasses import replace

    from bench.render import terminal

    if kind == "lm-eval":
        others = columns or key or best or together or published or group_by != "model"
        _write_lm_eval(sources, output, others)
        return
    found, table = _gathered(sources, published, kind == "html", together)
    table = replace(_viewed(table, columns, key, group_by), mark=best)
    render = partial(terminal.render, table) if kind == "table" else None
    put_out(output, lambda: _rendered(kind, found, table), render)


def _write_lm_eval(sources: tuple[str, ...], folder: Path | None, other: object) -> None:
    from bench.render import lm_eval_format
    from bench.results import open_results

    if folder is None or folder.is_file():
        raise InputError("--format lm-eval writes a folder; name it with -o.")
    if other:
        raise InputError("--format lm-eval goes with no option but -o.")
    found = [open_results(source, transcripts=True) for source in sources]
    for remark in lm_eval_format.write(found, folder):
        click.echo(remark, err=True)


def _gathered(
    sources: tuple[str, ...], same_models: bool, transcripts: bool, together: bool
) -> tuple[list[Results], Table]:
    """All results, and the table of their records with what is to be quoted."""
    from dataclasses import replace

    from bench.leaderboard import leaderboard, published
    from bench.results import open_results

    opened: dict[str, Results] = {}
    quoted: list[Table] = []
    for source in sources:
        if published.is_named(source):
            quoted += published.named(source)
        elif Path(source).exists() or ":" in source:
            opened[source] = open_results(source, transcripts)
        else:
            raise published.unknown(source)
    folders = {source: list(results.records.values()) for source, results in opened.items()}
    records = [record for found in folders.values() for record in found]
    table = leaderboard.build_all(folders, together) if folders else leaderboard.EMPTY
    if same_models and folders:
        models = list(dict.fromkeys(record.model for record in records))
        if of_models := published.of_models(models):
            quoted += [found for found in of_models if found not in quoted]
        else:
            remark = published.nothing_about(models)
            table = replace(table, remarks=[*table.remarks, remark])
    return [*opened.values()], replace(table, quoted=quoted)


def _viewed(table: Table, columns: str | None, key: str | None, group_by: Grouping) -> Table:
    from bench.leaderboard import view

    if not table.groups and (columns is not None or key or group_by != "model"):
        raise InputError(
            "--columns, --sort and --group-by are about what was measured; name a result folder, too."
        )
    table = view.grouped(table, group_by)
    if key:
        table = view.sorted_by(table, key)
    return (
        table
        if columns is None
        else view.with_columns(table, [key.strip() for key in columns.split(",")])
    )


def _rendered(kind: str, sources: list[Results], table: Table) -> str:
    if kind == "html":
        from bench.page import render

        records = [record for results in sources for record in results.records.values()]
        return render(records, table, sources)
    if kind == "table":
        from bench.render import terminal

        return terminal.text(table)
    return FORMATS[kind](table)
