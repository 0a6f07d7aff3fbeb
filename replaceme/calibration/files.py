"""A local file → its text, or its rows as they stand there.

JSON is read here and not through a typed table, which would fill up objects of different keys, and
refuses columns that hold texts in some rows and lists in others.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import mmap
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from replaceme.calibration.data import PACKED
from replaceme.errors import InputError

Rows = Sequence[dict[str, Any]]
UTF16 = (b"\xff\xfe", b"\xfe\xff")
BOM = b"\xef\xbb\xbf"
BLANK = b" \t\r"


class MalformedError(ValueError):
    """Why a file cannot be read, as the end of a sentence."""


def content_of(path: Path, most: int | None = None) -> bytes | mmap.mmap:
    """The bytes of a file, unpacked; the first ``most``, or all of them, mapped where they are many.

    Raises:
        MalformedError: it cannot be read or unpacked.
    """
    try:
        if path.suffix.lower() in PACKED:
            with gzip.open(path) as packed:
                return packed.read(-1 if most is None else most)
        with path.open("rb") as file:
            if most is not None:
                return file.read(most)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except gzip.BadGzipFile:
        raise MalformedError("it is not packed with gzip, as its name says") from None
    except (EOFError, zlib.error):
        raise MalformedError("it is cut off, or damaged, inside its gzip packing") from None
    except OSError as error:
        raise MalformedError(str(error.strerror or error)) from None


def decode(data: bytes, line: int | None = None) -> str:
    """UTF-8 text; a byte-order mark is dropped.

    Raises:
        MalformedError: with the place of the first byte that is none.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith(UTF16):
            raise MalformedError("it is UTF-16 text; save it as UTF-8") from None
        where = line or data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise MalformedError(
            f"line {where} is not UTF-8 text (byte 0x{data[error.start]:02X} at column {column}); save "
            f"it as UTF-8"
        ) from None


def whole_lines(data: bytes, most: int | None) -> bytes:
    """What was read without the line that ended behind the ``most`` bytes."""
    return data if most is None or len(data) < most else data[: data.rfind(b"\n") + 1]


def text_of(path: Path) -> str:
    """A text file, with line ends of any system as ``\\n``.

    Raises:
        MalformedError: it cannot be read, or is not UTF-8.
    """
    return decode(bytes(content_of(path))).replace("\r\n", "\n").replace("\r", "\n")


class JsonLines(Sequence[dict[str, Any]]):
    """The rows of a file with one JSON value in each line; parsed when they are asked for.

    Raises:
        MalformedError: a line is not JSON.
    """

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data, self._spans, self.columns = data, [], dict[str, None]()
        start, line = 0, 0
        while start < len(data):
            line += 1
            end = data.find(b"\n", start)
            end = len(data) if end < 0 else end
            if (text := data[start:end]).strip(BLANK + BOM * (line == 1)):
                row = parse(text, line, last=end == len(data))
                self.columns |= dict.fromkeys(row) if isinstance(row, dict) else {}
                self._spans.append((start, end))
            start = end + 1

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: Any) -> Any:
        start, end = self._spans[index]
        return json.loads(decode(self._data[start:end]))


def parse(text: bytes, line: int, last: bool = False) -> Any:
    """The JSON value in a line.

    Raises:
        MalformedError: there is none.
    """
    try:
        return json.loads(decode(text, line))
    except (json.JSONDecodeError, RecursionError) as error:
        place = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = getattr(error, "msg", "nested too deep").removesuffix(" at")
        end = "; the file seems to be cut off" if last and line > 1 else ""
        raise MalformedError(f"line {line} is not valid JSON ({reason}{place}){end}") from None


def json_rows(path: Path, column: str) -> tuple[Rows, list[str]]:
    """The rows of a JSON file and the names of their columns.

    It holds an object in each line, one list of objects, or one object with a list of objects.

    Raises:
        MalformedError: it cannot be read, or is not JSON.
    """
    data = content_of(path)
    if not is_whole(data[: 1 << 16]):
        lines = JsonLines(data)
        if len(lines) != 1:
            return lines, list(lines.columns)
        rows = _list_values(lines[0], column)
    else:
        rows = _list_values(_parsed_whole(data), column)
    return rows, list(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row))


def is_whole(head: bytes) -> bool:
    """Whether a JSON file that begins so is one value, and not one in each line."""
    head = head.removeprefix(BOM).lstrip()
    first = head.partition(b"\n")[0].rstrip()
    return head[:1] == b"[" or (head[:1] == b"{" and first[-1:] in (b"{", b"[", b","))


def _parsed_whole(data: bytes | mmap.mmap) -> Any:
    try:
        return json.loads(decode(bytes(data)))
    except json.JSONDecodeError as error:
        end = "; the file seems to be cut off" if error.pos >= len(error.doc.rstrip()) - 1 else ""
        reason = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        raise MalformedError(f"line {error.lineno} is not valid JSON ({reason}){end}") from None
    except RecursionError:
        raise MalformedError("it is not valid JSON (nested too deep)") from None


def _list_values(whole: Any, column: str) -> list[Any]:
    """The rows that one JSON value stands for: a list, or the only list of objects in an object."""
    if isinstance(whole, list):
        return whole
    inside = [part for part in whole.values() if _are_rows(part)] if isinstance(whole, dict) else []
    return inside[0] if len(inside) == 1 and column not in whole else [whole]


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def csv_rows(path: Path, column: str, most: int | None = None) -> tuple[Rows, list[str]]:
    """The rows of a table of comma or tab separated values with one column, and its header.

    Args:
        most: bytes to read.

    Raises:
        MalformedError: it cannot be read, or a line has more fields than the header.
    """
    text = decode(whole_lines(bytes(content_of(path, most)), most))
    lines = _csv_lines(text, "\t" if ".tsv" in [s.lower() for s in path.suffixes] else ",")
    header = next(lines, (0, []))[1]
    rows = []
    for number, fields in lines:
        if len(fields) > len(header):
            raise MalformedError(f"line {number} has {len(fields)} fields, the header {len(header)}")
        if fields:
            row = dict(zip(header, fields, strict=False))
            rows.append({column: row[column]} if column in row else {})
    return rows, header


def _csv_lines(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    limit = csv.field_size_limit(len(text) + 1)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        yield from ((reader.line_num, fields) for fields in reader)
    except csv.Error as error:
        raise MalformedError(f"line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(limit)


def typed_rows(path: Path, column: str, most: int | None = None) -> tuple[Rows, list[str]]:
    """The rows of a Parquet or Arrow file with one column, and the names of all.

    Args:
        most: rows to read.

    Raises:
        MalformedError: it cannot be read.
    """
    import pyarrow as pa

    try:
        names, batches = _batches(path, column, most)
        if column not in names:
            return [], names
        found, count = [], 0
        for batch in batches:
            found.append(batch)
            count += batch.num_rows
            if most is not None and count >= most:
                break
        if not found:
            return [], names
        return _Typed(pa.Table.from_batches(found).column(column), column), names
    except (pa.ArrowException, OSError) as error:
        raise MalformedError(next(iter(str(error).splitlines()), type(error).__name__)) from None


def _batches(path: Path, column: str, most: int | None) -> tuple[list[str], Any]:
    import pyarrow as pa

    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        wanted = [column] if column in names else []
        return names, file.iter_batches(most or 65_536, columns=wanted)
    source = pa.memory_map(str(path))
    if source.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(source)
        found = (reader.get_batch(i) for i in range(reader.num_record_batches))
        return reader.schema.names, found
    source.seek(0)
    reader = pa.ipc.open_stream(source)
    return reader.schema.names, reader


class _Typed(Sequence[dict[str, Any]]):
    """A column of an Arrow table as rows."""

    def __init__(self, values: Any, column: str) -> None:
        self._values, self._column = values, column

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return {self._column: self._values[index].as_py()}


def unreadable(where: str, error: MalformedError) -> InputError:
    """The sentence for a file that is malformed."""
    return InputError(f"{where} cannot be read: {error}.")
