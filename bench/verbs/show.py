"""``show``: what a cell answered to the items of a task, beside the intact model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from replaceme.errors import InputError, nearest

if TYPE_CHECKING:
    from bench.items import Answer, Item
    from bench.results import Results

MOST = 20


@click.command()
@click.argument("cell")
@click.argument("task")
@click.option("--item", "number", type=int, metavar="N", help="This item, in full.")
@click.option("--whole", is_flag=True, help="With --item: the whole prompt, examples included.")
@click.option("--all", "every", is_flag=True, help="All items, not only those answered otherwise.")
@click.option("--results", "source", metavar="DIR", help="Result folder. [default: the newest in runs/]")
def show(cell: str, task: str, number: int | None, whole: bool, every: bool, source: str | None) -> None:
    """Print what a cell answered to a task beside what the intact model did.

    CELL is called as in tables, MODEL/LAYERS/SOLVER. Without --item the first 20 items are listed to
    which the two answered something else.
    """
    from bench import console
    from bench.render.items import list_items, show_item
    from bench.results import open_results

    results = open_results(source or find_newest(), transcripts=True)
    items, intact = _read(results, cell, task)
    with console.output() as stdout:
        if number is not None:
            if number not in items:
                raise InputError(f"{task} has no item {number}; it has {min(items)} to {max(items)}.")
            show_item(stdout, items[number], intact.get(number), cell, whole)
            return
        chosen = [
            (item, intact.get(i)) for i, item in items.items() if every or _differs(item, intact.get(i))
        ]
        if intact:
            changed = sum(_differs(item, intact.get(i)) for i, item in items.items())
            stdout.print(f"{changed} of {len(items)} answers of {task} differ from the intact model's.")
        shown = chosen if every else chosen[:MOST]
        if shown:
            list_items(stdout, shown, cell)
        if len(chosen) > len(shown):
            stdout.print(f"{len(chosen) - len(shown)} more; --all shows every item.")


def find_newest() -> str:
    """The result folder in ``runs`` whose records changed last.

    Raises:
        InputError: there is none.
    """
    folders = sorted(Path("runs").glob("*/records"), key=lambda path: path.stat().st_mtime)
    if not folders:
        raise InputError("there are no results in runs/; name a result folder with --results.")
    return str(folders[-1].parent)


def _read(results: Results, cell: str, task: str) -> tuple[dict[int, Item], dict[int, Answer]]:
    """The items of a cell, and the intact model's answers, by number.

    Raises:
        InputError: there is no such cell or task, or its answers were not kept.
    """
    from bench.items import read_items

    named = {results.records[stem].name: stem for stem in results.cells.values()}
    if cell not in named:
        raise InputError(f"{results.source} has no cell {cell!r}{nearest(cell, [*named])}")
    record = results.records[named[cell]]
    if task not in record.quality:
        raise InputError(f"{cell} has no scores of {task!r}{nearest(task, [*record.quality])}")
    items = read_items(results.folder, named[cell], task)
    if not items:
        raise InputError(f"{results.source} does not hold what {cell} answered to {task}.")
    baseline = results.cells.get((record.model, 0, "baseline")) if record.layers else None
    intact = read_items(results.folder, baseline, task) if baseline else {}
    alike = [i for i, item in intact.items() if i in items and item.prompt == items[i].prompt]
    return items, {i: intact[i].answer for i in alike}


def _differs(item: Item, intact: Answer | None) -> bool:
    """Whether an item was answered otherwise: by what was extracted, where something was."""
    if intact is None:
        return True
    if item.answer.extracted:
        return item.answer.extracted != intact.extracted
    return item.answer.text.rpartition(" (log")[0] != intact.text.rpartition(" (log")[0]
