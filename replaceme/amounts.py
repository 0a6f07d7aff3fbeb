"""Numbers as people write them: of tokens (200000, 200k, 2M) and of bytes (20GiB)."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

SUFFIXES = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
VARIABLE = r"\$\{"  # of a suite file, which stands for a number
UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
SIZE = re.compile(rf"(\d{{1,12}}(?:\.\d{{1,6}})?)\s*({'|'.join(UNITS)})")
AMOUNT = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([kMG]?)")


def parse_amount(value: Any) -> Any:
    """A whole number from a text such as ``200k`` or ``2M``; everything else as it is.

    Raises:
        ValueError: a text that is none.
    """
    if not isinstance(value, str):
        return value
    if match := AMOUNT.fullmatch(value.strip()):
        return round(float(match[1]) * SUFFIXES[match[2]])
    raise ValueError(f"{value[:40]!r} is no number of tokens; allowed are such as 200000, 200k and 2M")


def format_amount(count: int) -> str:
    """A whole number as short as :func:`parse_amount` takes it without loss: ``200k``."""
    fits = [suffix for suffix, size in SUFFIXES.items() if count % size == 0]
    return f"{count // SUFFIXES[fits[-1]]}{fits[-1]}"


Amount = Annotated[
    int,
    BeforeValidator(parse_amount),
    WithJsonSchema(
        {"type": ["integer", "string"], "minimum": 1, "pattern": f"^{AMOUNT.pattern}$|{VARIABLE}"}
    ),
]


def parse_size(text: str) -> int:
    """Bytes, from a text such as ``20GiB`` or ``500 MB``.

    Raises:
        ValueError: it is none, or lacks a unit.
    """
    if match := SIZE.fullmatch(text.strip()):
        number: float = float(match[1])
        return int(number * UNITS[match[2]])
    raise ValueError(f"{text[:40]!r} is no amount of memory; write a number and {', '.join(UNITS)}")


def _check_size(value: Any) -> str:
    text = str(value)
    parse_size(text)
    return text


Size = Annotated[
    str,
    BeforeValidator(_check_size),
    WithJsonSchema({"type": "string", "pattern": f"^{SIZE.pattern}$|{VARIABLE}"}),
]


def format_bytes(size: int) -> str:
    """Bytes for a person to read."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
