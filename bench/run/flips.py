"""Flips into records, whichever runs scored the intact model and its variants."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from bench.changes import Columns, count_flips
from bench.records import Record, Task
from bench.run.ledger import Ledger
from bench.store import Store
from bench.suite.suite import ModelSpec
from replaceme.errors import InputError


def record_flips(ledger: Ledger, model: ModelSpec) -> None:
    """Count the flips of all cells of a model in the result folder that lack them, as far as their
    answers and the intact model's are kept.

    Raises:
        OutputError: a record cannot be written.
    """
    wanted = [cell.identity.model for cell in ledger.records if cell.model == model]
    known = dict(_readable(ledger.store)) | {c.stem: record for c, record in ledger.records.items()}
    cells = {stem: record for stem, record in known.items() if record.identity.model in wanted}
    intact = next((stem for stem, record in cells.items() if not record.identity.recipe), None)
    if intact is None:
        return
    answers = _read_samples(ledger.store, intact)
    for stem, record in cells.items():
        if _add_flips(ledger.store, stem, record, cells[intact], answers):
            ledger.store.write(stem, record)


def _add_flips(
    store: Store, stem: str, record: Record, intact: Record, answers: dict[str, Columns]
) -> bool:
    """Count what is not counted; returns whether the record has changed."""
    before = {name: task.flips for name, task in record.quality.items()}
    lacking = [name for name, task in record.quality.items() if _lacks(task)]
    own = _read_samples(store, stem) if lacking and answers else {}
    for name in lacking:
        task, other = record.quality[name], intact.quality.get(name)
        task.flips = None
        if other and (other.identity, other.requests) == (task.identity, task.requests):
            task.flips = count_flips(answers.get(name, {}), own.get(name, {}), task.primary)
    return before != {name: task.flips for name, task in record.quality.items()}


def _lacks(task: Task) -> bool:
    return task.flips is None or task.flips.metric != task.primary


def _readable(store: Store) -> Iterator[tuple[str, Record]]:
    """The records of a folder, but for those that are none."""
    for path in sorted((store.folder / "records").glob("*.json")):
        with suppress(InputError):
            if record := store.read(path.stem):
                yield path.stem, record


def _read_samples(store: Store, stem: str) -> dict[str, Columns]:
    with suppress(InputError):
        return store.read_samples(stem)
    return {}
