"""``replaceme-bench card``: which record is meant, and its card."""

from __future__ import annotations

from pathlib import Path

from bench.card import card
from bench.records import Record
from bench.results import Results, latest, open_results
from replaceme.errors import InputError, nearest
from replaceme.io.yaml_file import shown

RUNS = Path("runs")


def make_card(cell: str, source: str | None) -> tuple[str, Record]:
    """The model card of a cell, and its record.

    Args:
        cell: MODEL/N/SOLVER, the stem of a record, or the path of a record file.
        source: result folder, or REVISION:FOLDER; ``None`` looks into the folders of ``runs/``.

    Raises:
        InputError: no such cell, or several, or one that is not pruned.
    """
    if source is None and cell.endswith(".json"):
        path = Path(cell)
        results, record = open_results(str(path.parent.parent)), None
        record = results.records.get(path.stem)
        if record is None or not path.is_file():
            raise InputError(f"{shown(cell)} is not a record; it would be in a folder named records.")
    else:
        results, record = _found(cell, source)
    name = name_of(record)
    if record.layers == 0:
        raise InputError(f"{shown(name)} is the intact model, which has a card of its own.")
    if record.prune is None:
        failure = record.failed("prune")
        reason = shown(failure.error) if failure else "the run did not come so far"
        raise InputError(f"{shown(name)} has not been pruned: {reason}")
    if not record.identity.get("solver"):
        raise InputError(f"{shown(name)}: its record does not say what solver made it.")
    intact = latest(results.records.values()).get((record.model, 0, "baseline"))
    return card.render(record, record.prune, intact), record


def candidates(source: str | None) -> list[str]:
    """Names of the pruned cells of a result folder, or of all in ``runs/``."""
    found = [_names(results) for results in _folders(source)]
    return sorted({name for names in found for name, record in names.items() if record.layers})


def name_of(record: Record) -> str:
    """MODEL/N/SOLVER, or MODEL/baseline."""
    middle = f"/{record.layers}" if record.layers else ""
    return f"{record.model}{middle}/{record.label}"


def _found(cell: str, source: str | None) -> tuple[Results, Record]:
    folders = _folders(source)
    matches = []
    for results in folders:
        record = results.records.get(cell) or _names(results).get(cell)
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
    known = [name for results in folders for name, record in _names(results).items() if record.layers]
    raise InputError(
        f"there is no cell {shown(repr(cell))} in {where}{nearest(cell, known)} There are "
        f"{shown(', '.join(known)) or 'none'}."
    )


def _folders(source: str | None) -> list[Results]:
    if source is not None:
        return [open_results(source)]
    folders = sorted(RUNS.glob("*/records")) if RUNS.is_dir() else []
    return [open_results(str(path.parent)) for path in folders if any(path.glob("*.json"))]


def _names(results: Results) -> dict[str, Record]:
    return {name_of(record): record for record in latest(results.records.values()).values()}
