"""What can be seen to be wrong with local data at once: by first rows, last line and headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from replaceme.calibration.chats import UnusableError, said_in
from replaceme.calibration.data import PACKED, SPLIT, CalibrationData, is_data_file, kind_of
from replaceme.calibration.files import (
    JsonLines,
    MalformedError,
    content_of,
    csv_rows,
    decode,
    is_whole,
    json_rows,
    parse,
    typed_rows,
    unreadable,
    whole_lines,
)
from replaceme.errors import InputError, nearest

HEAD = 1 << 20  # bytes
TAIL = 1 << 16
WHOLE = 1 << 26  # bytes of a JSON file that is one value, up to which it is parsed
SEEN = 100  # rows


def check_data(data: CalibrationData) -> None:
    """Refuse what can be seen to be wrong without reading everything; imports nothing heavy.

    Raises:
        InputError: a local file or folder is missing, empty, malformed or without the column, or the
            split cannot be one.
    """
    if not SPLIT.fullmatch(data.split):
        raise InputError(
            f"{data.where}: {data.split!r} is no split; allowed are a name, a part of it such as "
            f"train[:1000] or train[10%:20%], and several joined by +."
        )
    if data.generated and data.has_no_rows:
        raise InputError(f"{data.where} has no rows that could be prompts; give a table.")
    path = data.local_file()
    if path is not None and data.streaming:
        raise InputError(
            f"{data.where} is a file on this machine; streaming is for hub data sets and folders."
        )
    if path is not None:
        check_file(data, path)
    elif (folder := data.local_folder()) is not None:
        check_folder(data, folder)


def check_file(data: CalibrationData, path: Path) -> None:
    """Refuse a file that is empty, malformed, without the column, or without usable rows at its start.

    Raises:
        InputError: what is wrong, and where.
    """
    try:
        if kind_of(path) == "text":
            head = bytes(content_of(path, HEAD))
            if not decode(whole_lines(head, HEAD)).strip() and len(head) < HEAD:
                raise InputError(f"{data.where} holds no text.")
            return
        rows, columns = first_rows(path, data.column)
    except MalformedError as error:
        raise unreadable(data.where, error) from None
    check_columns(data, columns, bool(rows))
    if rows:
        _check_values(data, rows)


def check_folder(data: CalibrationData, folder: Path) -> None:
    """The same of the files of a folder: one of them must have the column.

    Raises:
        InputError: what is wrong, and where.
    """
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        files = sorted(folder.rglob("*.arrow"))
    else:
        inside = [path for path in sorted(folder.rglob("*")) if is_data_file(path)]
        files = [path for path in inside if not _hidden(path.relative_to(folder)) and path.is_file()]
    columns: dict[str, None] = {}
    for path in files:
        try:
            found = [data.column] if kind_of(path) == "text" else first_rows(path, data.column)[1]
        except MalformedError as error:
            raise unreadable(f"{data.where}, {path.relative_to(folder)},", error) from None
        if data.column in found:
            return
        columns |= dict.fromkeys(found)
    if files:
        check_columns(data, list(columns), bool(columns))


def _hidden(inside: Path) -> bool:
    return any(part.startswith((".", "_")) for part in inside.parts) or inside.name in (
        "dataset_info.json",
        "state.json",
        "dataset_infos.json",
        "dataset_dict.json",
    )


def check_columns(data: CalibrationData, columns: list[str], rows: bool = True) -> None:
    """Refuse data without rows, or without the wanted column.

    Raises:
        InputError: with the columns there are.
    """
    if columns and data.column not in columns:
        raise InputError(
            f"{data.where} has no column {data.column!r}{nearest(data.column, columns)} Its columns are "
            f"{', '.join(columns)}."
        )
    if not rows:
        raise InputError(f"{data.where} holds no text: it has no rows.")


def first_rows(path: Path, column: str) -> tuple[Sequence[Any], list[str]]:
    """Some rows of a table in a file, and the names of its columns.

    Raises:
        MalformedError: its start or its last line cannot be read.
    """
    kind = kind_of(path)
    if kind in ("parquet", "arrow"):
        return typed_rows(path, column, SEEN)
    if kind == "csv":
        return csv_rows(path, column, HEAD)
    head = bytes(content_of(path, HEAD))
    if is_whole(head) or len(head) < HEAD:
        return json_rows(path, column) if path.stat().st_size <= WHOLE else ([{}], [column])
    lines = JsonLines(whole_lines(head, HEAD))
    if path.suffix.lower() not in PACKED:
        _check_last_line(path)
    return lines, list(lines.columns) or [column]


def _check_last_line(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(-TAIL, 2)
        tail = file.read().rstrip()
    if b"\n" in tail:
        try:
            parse(tail.rpartition(b"\n")[2], 1)
        except MalformedError as error:
            reason = str(error).removeprefix("line 1 ")
            raise MalformedError(f"its last line {reason}; the file seems to be cut off") from None


def _check_values(data: CalibrationData, rows: Sequence[Any]) -> None:
    """Refuse a column where none of the first rows can be used: one of numbers, or without text."""
    reasons = []
    for row in islice(rows, SEEN):
        try:
            said = said_in(row.get(data.column) if isinstance(row, dict) else row)
            if said and (isinstance(said, list) or said.strip()):
                return
        except UnusableError as error:
            reasons.append(str(error))
    if reasons:
        raise InputError(
            f"{data.where}: the column {data.column!r} cannot be used: {reasons[0]}; allowed are texts, "
            f"and lists of messages with role and content."
        )
    if len(rows) <= SEEN:
        raise InputError(f"{data.where} holds no text.")
