"""``card``: the model card of a pruned cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from replaceme.errors import InputError, nearest

if TYPE_CHECKING:
    from bench.records import Record
    from bench.results import Results

RUNS = Path("runs")


def complete_cells(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of the pruned cells of a result folder, for the shell."""
    try:
        return [name for name in list_cells(ctx.params.get("results")) if name.startswith(incomplete)]
    except InputError:
        return []


@click.command()
@click.argument("cell", shell_complete=complete_cells)
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


def make_card(cell: str, source: str | None) -> tuple[str, Record]:
    """The model card of a cell, and its record.

    Args:
        cell: MODEL/N/SOLVER, the stem of a record, or the path of a record file.
        source: result folder, or REVISION:FOLDER; ``None`` looks into the folders of ``runs/``.

    Raises:
        InputError: no such cell, or several, or one that is not pruned.
    """
    from bench.card import card as cards
    from bench.results import latest, open_results
    from replaceme.io.yaml_file import shown

    if source is None and cell.endswith(".json"):
        path = Path(cell)
        results, record = open_results(str(path.parent.parent)), None
        record = results.records.get(path.stem)
        if record is None or not path.is_file():
            raise InputError(f"{shown(cell)} is not a record; it would be in a folder named records.")
    else:
        results, record = _find_record(cell, source)
    name = record.name
    if record.layers == 0:
        raise InputError(f"{shown(name)} is the intact model, which has a card of its own.")
    if record.prune is None:
        failure = record.failed("prune")
        reason = shown(failure.error) if failure else "the run did not come so far"
        raise InputError(f"{shown(name)} has not been pruned: {reason}")
    if record.identity.prune is None:
        raise InputError(f"{shown(name)}: its record does not say what solver made it.")
    intact = latest(results.records.values()).get((record.model, 0, "baseline"))
    return cards.render(record, record.prune, intact), record


def list_cells(source: str | None) -> list[str]:
    """Names of the pruned cells of a result folder, or of all in ``runs/``."""
    found = [_index_by_name(results) for results in _open_folders(source)]
    return sorted({name for names in found for name, record in names.items() if record.layers})


def _find_record(cell: str, source: str | None) -> tuple[Results, Record]:
    from replaceme.io.yaml_file import shown

    folders = _open_folders(source)
    matches = []
    for results in folders:
        record = results.records.get(cell) or _index_by_name(results).get(cell)
        if record is not None:
            matches.append((results, record))
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(results.source for results, _ in matches)
        raise InputError(f"{shown(cell)} is in {names}; say which with --results.")
    where = source or ", ".join(results.source for results in folders)
    if not where:
        raise InputError(f"{RUNS}/ holds no results; name a result folder with --results.")
    known = [
        name for results in folders for name, record in _index_by_name(results).items() if record.layers
    ]
    raise InputError(
        f"there is no cell {shown(repr(cell))} in {where}{nearest(cell, known)} There are "
        f"{shown(', '.join(known)) or 'none'}."
    )


def _open_folders(source: str | None) -> list[Results]:
    from bench.results import open_results

    if source is not None:
        return [open_results(source)]
    folders = sorted(RUNS.glob("*/records")) if RUNS.is_dir() else []
    return [open_results(str(path.parent)) for path in folders if any(path.glob("*.json"))]


def _index_by_name(results: Results) -> dict[str, Record]:
    from bench.results import latest

    return {record.name: record for record in latest(results.records.values()).values()}
