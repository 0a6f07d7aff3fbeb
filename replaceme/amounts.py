"""Numbers of tokens as people write them: 200000, 200k, 2M."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

SUFFIXES = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
VARIABLE = r"\$\{"  # of a suite file, which stands for a number
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
