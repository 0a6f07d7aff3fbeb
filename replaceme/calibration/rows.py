"""The values of the calibration column: in a seeded order, from a file, a folder or the hub."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaceme.calibration.check import check_columns
from replaceme.calibration.data import BUFFER, kind_of
from replaceme.calibration.files import MalformedError, csv_rows, json_rows, typed_rows, unreadable
from replaceme.errors import InputError, nearest

if TYPE_CHECKING:
    from replaceme.calibration.data import CalibrationData

SLICE = re.compile(r"\s*(?P<name>\w+(\.\w+)*)(\[(?P<start>\d*):(?P<stop>\d*)\])?\s*")
READERS = {"json": json_rows, "csv": csv_rows, "parquet": typed_rows, "arrow": typed_rows}
SAVED = ("state.json", "dataset_dict.json")  # of a folder that datasets' save_to_disk wrote


def rows_of(data: CalibrationData, in_order: bool = False) -> list[Any]:
    """The wanted column of a seeded choice of rows, or, ``in_order``, of the first rows.

    Raises:
        InputError: the data set cannot be read, or lacks the column.
    """
    return [value for _, value in islice(values_of(data, in_order), data.samples)]


def values_of(data: CalibrationData, in_order: bool = False) -> Iterator[tuple[int, Any]]:
    """All rows as (number, value of the column), in the order in which they are to be used.

    That is a seeded order where there are more rows than ``data.samples``, else their own. Numbers
    count from 1, in the data or, of a stream, in the order drawn.

    Raises:
        InputError: the data set cannot be read, or lacks the column.
    """
    data = data.read_from()
    if data.streaming:
        yield from enumerate(_stream(data, in_order), 1)
        return
    rows = _rows(data)
    order: Sequence[int] = range(len(rows))
    if len(rows) > data.samples and not in_order:
        import numpy as np

        order = np.random.default_rng(data.seed).permutation(len(rows)).tolist()
    for index in order:
        row = rows[index]
        yield index + 1, row.get(data.column) if isinstance(row, dict) else row


class _Joined(Sequence[Any]):
    """Several sequences, each a (rows, range of indices), as one."""

    def __init__(self, parts: list[tuple[Sequence[Any], range]]) -> None:
        self._parts, self._ends = parts, list(accumulate(len(part) for _, part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        place = bisect_right(self._ends, index)
        rows, part = self._parts[place]
        return rows[part[index - (self._ends[place - 1] if place else 0)]]


def _rows(data: CalibrationData) -> Sequence[Any]:
    """Everything that ``split`` names; a row is an object, or a bare value of a JSON file."""
    if (path := data.local_file()) is not None:
        names = [part.partition("[")[0].strip() for part in data.split.split("+")]
        rows = _file_rows(data, path)
        return _part(data, dict.fromkeys(names, rows))
    if (folder := data.local_folder()) is None:
        return _load(data)
    if any((folder / name).is_file() for name in SAVED):
        return _part(data, _read_saved(data, folder))
    files = _json_files(data)
    if not files:
        return _load(data)
    joined: dict[str, Sequence[Any]] = {}
    for name, paths in files.items():
        parts = [_file_rows(data, path) for path in paths]
        joined[name] = _Joined([(rows, range(len(rows))) for rows in parts])
    return _part(data, joined)


def _file_rows(data: CalibrationData, path: Path) -> Sequence[Any]:
    try:
        rows, columns = READERS[str(kind_of(path))](path, data.column)
    except MalformedError as error:
        raise unreadable(data.where, error) from None
    check_columns(data, columns, bool(rows))
    return rows


def _part(data: CalibrationData, splits: dict[str, Sequence[Any]]) -> Sequence[Any]:
    """What ``split`` names of local data, by the rules of ``datasets``."""
    if data.split in splits:
        return splits[data.split]
    from datasets import ReadInstruction

    try:
        spec = ReadInstruction.from_spec(data.split)
        parts = spec.to_absolute({name: len(rows) for name, rows in splits.items()})
    except (ValueError, AssertionError) as error:
        known = list(splits)
        if not any(name in data.split for name in known):
            raise InputError(
                f"{data.where} has no split {data.split!r}{nearest(data.split, known)} Its splits are "
                f"{', '.join(known)}."
            ) from None
        raise _unreadable(data, error) from None
    return _Joined([(splits[part.splitname], range(part.from_, part.to)) for part in parts])


def _read_saved(data: CalibrationData, folder: Path) -> dict[str, Sequence[Any]]:
    """The splits of a folder that ``save_to_disk`` wrote."""
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise _unreadable(data, error) from error
    splits = found if isinstance(found, dict) else {data.split.partition("[")[0]: found}
    return {str(name): _column(data, table) for name, table in splits.items()}


def _json_files(data: CalibrationData) -> dict[str, list[Path]]:
    """Split → files of a folder, as ``datasets`` finds them; empty where they are not all JSON."""
    import datasets

    try:
        found = datasets.load_dataset_builder(data.dataset, data.subset).config.data_files or {}
    except Exception as error:
        raise _unreadable(data, error) from error
    files = {str(name): [Path(path) for path in paths] for name, paths in found.items()}
    kinds = {kind_of(path) for paths in files.values() for path in paths}
    return files if kinds == {"json"} else {}


def _load(data: CalibrationData) -> Sequence[Any]:
    """A data set of the hub, or a folder of typed tables."""
    import datasets

    try:
        table = datasets.load_dataset(
            data.dataset, data.subset, split=data.split, revision=data.revision
        )
    except Exception as error:
        raise _unreadable(data, error) from error
    return _column(data, table)


def _column(data: CalibrationData, table: Any) -> Sequence[Any]:
    check_columns(data, list(table.column_names), len(table) > 0)
    column: Sequence[Any] = table.select_columns([data.column])
    return column


def _stream(data: CalibrationData, in_order: bool) -> Iterator[Any]:
    """The column of a stream, shuffled within a buffer."""
    import datasets

    parts = SLICE.fullmatch(data.split)
    if parts is None:
        raise InputError(
            f"{data.where}: of a stream only a split or rows of it by number can be read, such as "
            f"train[1000:2000]; got {data.split!r}."
        )
    start, stop = int(parts["start"] or 0), parts["stop"]
    try:
        stream = datasets.load_dataset(
            data.dataset, data.subset, split=parts["name"], revision=data.revision, streaming=True
        )
        columns = stream.column_names or list(next(iter(stream), {}))
        check_columns(data, columns, bool(columns))
        stream = stream.select_columns([data.column]).skip(start)
        stream = stream.take(max(0, int(stop) - start)) if stop else stream
        if not in_order:
            stream = stream.shuffle(seed=data.seed, buffer_size=BUFFER)
        for row in stream:
            yield row[data.column]
    except InputError:
        raise
    except Exception as error:
        raise _unreadable(data, error) from error


def _unreadable(data: CalibrationData, error: Exception) -> InputError:
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return InputError(f"{data.where} cannot be read: {reason.rstrip('.')}.")
