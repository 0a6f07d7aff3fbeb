"""Safetensors files read and written as streams of tensors.

The format: eight bytes with the length of a JSON header, the header (name → dtype, shape, offsets),
the tensors' bytes (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from replaceme.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

FLOATS = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "BF16": ("bfloat16", 2),
    "F16": ("float16", 2),
}
OTHERS = {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
SHORT_NAMES = {name: short for short, (name, _) in FLOATS.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its name, dtype (``BF16`` …), shape, and byte range in the file."""

    name: str
    dtype: str
    shape: list[int]
    start: int
    end: int


@dataclass(frozen=True)
class Piece:
    """One tensor to write; ``read`` makes its ``size`` bytes when their turn comes."""

    name: str
    dtype: str
    shape: list[int]
    size: int
    read: Callable[[], bytes | memoryview]


def read_header(file: Path) -> tuple[list[Entry], dict[str, str]]:
    """The tensors of a file in the order of their bytes, and its metadata.

    Raises:
        InputError: the header is damaged, or the file is shorter than it says.
    """
    try:
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > file.stat().st_size:
                raise ValueError
            header: dict[str, Any] = json.loads(stream.read(size))
        metadata = header.pop("__metadata__", {})
        entries = [
            Entry(
                name,
                tensor["dtype"],
                tensor["shape"],
                *(8 + size + o for o in tensor["data_offsets"]),
            )
            for name, tensor in header.items()
        ]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file} is damaged: its safetensors header cannot be read.") from None
    if entries and file.stat().st_size < max(entry.end for entry in entries):
        raise InputError(f"{file} is damaged: it is shorter than its safetensors header says.")
    return sorted(entries, key=lambda entry: entry.start), metadata


def bytes_of(entry: Entry, data: BinaryIO) -> bytes:
    """The bytes of one tensor of an open file."""
    data.seek(entry.start)
    return data.read(entry.end - entry.start)


def tensor_of(entry: Entry, data: BinaryIO) -> Tensor:
    """One tensor of an open file, in its own shape and dtype.

    Raises:
        InputError: the file ends before it.
    """
    import torch

    raw = torch.empty(entry.end - entry.start, dtype=torch.uint8)
    data.seek(entry.start)
    if data.readinto(raw.numpy()) < len(raw):  # type: ignore[attr-defined]
        raise InputError(f"{data.name} has become shorter while it is read.")
    dtype = FLOATS[entry.dtype][0] if entry.dtype in FLOATS else OTHERS[entry.dtype]
    return raw.view(getattr(torch, dtype)).reshape(entry.shape)


def copied(entry: Entry, name: str, data: BinaryIO) -> Piece:
    """The tensor under another name, its bytes as they are."""
    size = entry.end - entry.start
    return Piece(name, entry.dtype, entry.shape, size, lambda: bytes_of(entry, data))


def changed(
    entry: Entry,
    name: str,
    data: BinaryIO,
    change: Callable[[Tensor], Tensor],
    dtype: str,
    shape: list[int] | None = None,
) -> Piece:
    """The tensor under another name, sent through ``change``.

    Args:
        dtype: torch name of the dtype that ``change`` returns.
        shape: of what it returns; ``None``: that of the tensor.
    """
    shape = shape or entry.shape
    short = SHORT_NAMES[dtype]

    def read() -> memoryview:
        import torch

        result = change(tensor_of(entry, data)).contiguous().reshape(-1)
        return result.view(torch.uint8).numpy().data

    return Piece(name, short, shape, math.prod(shape) * FLOATS[short][1], read)


def write(file: Path, pieces: list[Piece], metadata: dict[str, str]) -> None:
    """Write tensors to a file, one in memory at a time."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for piece in pieces:
        offsets = [offset, offset + piece.size]
        header[piece.name] = {"dtype": piece.dtype, "shape": piece.shape, "data_offsets": offsets}
        offset += piece.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as target:
        target.write(struct.pack("<Q", len(text)) + text)
        for piece in pieces:
            write_piece(target, piece)


def write_piece(target: BinaryIO, piece: Piece) -> None:
    """Make one tensor's bytes and append them."""
    target.write(piece.read())
