"""Texts and chats → token sequences, with what was left out and what they are as a whole."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from replaceme.calibration.chats import (
    Messages,
    UnusableError,
    said_in,
    with_known_roles,
    without_system,
)
from replaceme.calibration.data import CalibrationData
from replaceme.calibration.files import MalformedError, text_of, unreadable
from replaceme.calibration.rows import values_of
from replaceme.chat import USUAL_DAY, apply_chat_template
from replaceme.errors import InputError

T = TypeVar("T")
Encoded = TypeVar("Encoded", bound=Sized)


class RowCount(BaseModel):
    """What became of the rows that were read."""

    model_config = ConfigDict(extra="forbid")

    used: int = Field(0, description="rows that became a sequence")
    empty: int = Field(0, description="rows without any text")
    skipped: int = Field(0, description="rows that cannot be used")
    folded: int = Field(
        0, description="of those used: chats whose system turn went to the head of the user's"
    )
    first: str | None = Field(None, description="the first row that cannot be used, and why")

    @property
    def read(self) -> int:
        return self.used + self.empty + self.skipped

    def notice(self) -> str | None:
        """What a user should know, in a sentence."""
        said = []
        if self.skipped:
            said.append(f"{self.skipped:,} of {self.read:,} rows were skipped; {self.first}")
        if self.folded:
            said.append(
                f"the chat template refuses a system turn, which went to the head of the user's in "
                f"{self.folded:,} rows"
            )
        return "Calibration data: " + "; ".join(said) + "." if said else None


@dataclass(frozen=True)
class CalibrationText:
    """Token sequences of a data set.

    Attributes:
        sequences: lists of 1 to ``max_length`` token ids.
        rows: what was left out; ``None`` for a text without rows.
        counted_pad: the token of the padding, where that counts (``compat: reference``).
        data: the data set; ``None``: texts in memory.
        day: that its chats were rendered on; ``None`` for a text without rows.
    """

    sequences: list[list[int]]
    rows: RowCount | None = None
    counted_pad: int | None = None
    data: CalibrationData | None = None
    day: date | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of all token ids in their order, with the ends of the sequences."""
        pad = [] if self.counted_pad is None else [[self.counted_pad]]
        return token_hash([*self.sequences, *pad])

    def describe(self) -> dict[str, Any]:
        """For the provenance of what is made of it."""
        rows = self.rows.model_dump() if self.rows else None
        tokens = {"token_ids": self.hash, "rows": rows}
        if self.data is None:
            return {"dataset": "texts in memory"} | tokens
        date = {"date": self.day.isoformat() if self.day else None}
        return self.data.described() | date | {"fingerprint": self.data.fingerprint()} | tokens


def token_hash(sequences: Sequence[Sequence[int]]) -> str:
    """SHA-256 of token sequences: of each its length and its ids, as 8 bytes each."""
    digest = hashlib.sha256()
    for ids in sequences:
        digest.update(array("q", [len(ids), *ids]).tobytes())
    return "sha256:" + digest.hexdigest()


def load_sequences(data: CalibrationData, tokenizer: Any, day: date = USUAL_DAY) -> list[list[int]]:
    """The token ids that :func:`read_text` gives."""
    return read_text(data, tokenizer, day).sequences


def read_text(data: CalibrationData, tokenizer: Any, day: date = USUAL_DAY) -> CalibrationText:
    """Token sequences of a data set, ready for :class:`Batches`.

    Args:
        day: today, for a chat template that asks.

    Returns:
        At most ``data.samples`` lists of 1 to ``data.max_length`` token ids.

    Raises:
        InputError: the data set cannot be read, lacks the column, holds no text, or more rows that
            cannot be used than others.
    """
    if data.is_plain_text:
        path = data.local_file()
        assert path is not None
        try:
            text = text_of(path)
        except MalformedError as error:
            raise unreadable(data.where, error) from None
        found = CalibrationText(windows(text, tokenizer, data.max_length, data.samples))
    else:
        where = f"{data.where}, column {data.column!r}"
        found = _tokenize_rows(values_of(data), tokenizer, data.max_length, data.samples, day, where)
    if not found.sequences:
        raise InputError(f"{data.where} holds no text.")
    return replace(found, data=data, day=None if data.is_plain_text else day)


def tokenize(
    rows: Sequence[Any],
    tokenizer: Any,
    max_length: int,
    day: date = USUAL_DAY,
    where: str = "the calibration texts",
) -> list[list[int]]:
    """Token ids of texts or message lists, cut to ``max_length``; empty ones are left out.

    Raises:
        InputError: more of them cannot be used than can.
    """
    numbered = enumerate(rows, 1)
    return _tokenize_rows(numbered, tokenizer, max_length, len(rows), day, where).sequences


def _tokenize_rows(
    values: Iterable[tuple[int, Any]],
    tokenizer: Any,
    max_length: int,
    samples: int,
    day: date,
    where: str,
) -> CalibrationText:
    encode = partial(_encode, tokenizer=tokenizer, max_length=max_length, day=day)
    return CalibrationText(*encode_rows(values, encode, samples, where))


def encode_rows(
    values: Iterable[tuple[int, Any]],
    encode: Callable[[Any], tuple[Encoded, bool]],
    samples: int,
    where: str,
    tokens: int | None = None,
) -> tuple[list[Encoded], RowCount]:
    """The first ``samples`` usable rows; rows that cannot be used may be as many as those.

    Args:
        values: their numbers and what they hold.
        encode: a row → its tokens, and whether its system turn was moved.
        where: how messages begin.
        tokens: that are enough, if that is known.

    Raises:
        InputError: more rows cannot be used than can.
    """
    found: list[Encoded] = []
    rows, left = RowCount(), tokens
    for number, value in values:
        if len(found) == samples or rows.skipped > samples or (left is not None and left <= 0):
            break
        try:
            encoded, folded = encode(value)
        except UnusableError as error:
            rows.skipped += 1
            rows.first = rows.first or f"row {number}: {error}"
            continue
        if encoded:
            found.append(encoded)
            left = None if left is None else left - len(encoded)
        rows.empty += not encoded
        rows.folded += folded
    rows.used = len(found)
    if rows.skipped > rows.used:
        raise InputError(
            f"{where}: {rows.skipped:,} of {rows.read:,} rows cannot be used; {rows.first}. Allowed are "
            f"texts, and lists of messages with role and content."
        )
    return found, rows


def windows(text: str, tokenizer: Any, max_length: int, count: int | None = None) -> list[list[int]]:
    """Consecutive windows of ``max_length`` tokens; a shorter rest is left out unless it is all."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text.strip() else []
    start = tokenizer("x")["input_ids"][:1]
    bos = start if start == [tokenizer.bos_token_id] else []
    size = max_length - len(bos)
    cut = [bos + ids[i : i + size] for i in range(0, len(ids) - size + 1, size)]
    return (cut or [bos + ids] * bool(ids))[:count]


def _encode(row: Any, tokenizer: Any, max_length: int, day: date) -> tuple[list[int], bool]:
    """Token ids of a row, and whether its system turn was moved."""
    said = said_in(row)
    if isinstance(said, str):
        ids = tokenizer(said, verbose=False)["input_ids"] if said.strip() else []
        return ids[:max_length], False
    ids, folded = encode_messages(said, tokenizer, lambda messages: render(messages, tokenizer, day))
    return ids[:max_length], folded


def encode_messages(said: Messages, tokenizer: Any, encode: Callable[[Messages], T]) -> tuple[T, bool]:
    """What messages are encoded as, with roles that the chat template knows, and whether their system
    turn was moved to the head of the user's, because the template refuses it.

    Raises:
        InputError: the tokenizer has no chat template.
        UnusableError: the template refuses them.
    """
    if not tokenizer.chat_template:
        raise InputError(
            "the calibration column holds chat messages, but the model's tokenizer has no chat "
            "template; name a column of plain text."
        )
    messages = with_known_roles(said, str(tokenizer.chat_template))
    try:
        return encode(messages), False
    except UnusableError:
        if (moved := without_system(messages)) is None:
            raise
        return encode(moved), True


def render(messages: Messages, tokenizer: Any, day: date, **options: Any) -> Any:
    """Token ids of messages through the chat template; with ``return_dict`` what goes with them.

    Raises:
        UnusableError: the template refuses them.
    """
    settings = {"tokenize": True, "return_dict": False} | options
    try:
        return apply_chat_template(tokenizer, messages, day, **settings)
    except Exception as error:  # whatever a template raises
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UnusableError(f"the chat template refuses it ({reason.rstrip('.')})") from None
