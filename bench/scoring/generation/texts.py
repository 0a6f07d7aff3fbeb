"""Texts that models wrote, kept in a file one by one as the engine finishes them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from replaceme.errors import OutputError

GRAM = 4  # tokens

Entry = dict[str, Any]


class Text(NamedTuple):
    """What a model wrote to one request.

    Attributes:
        text: up to the first stop sequence.
        tokens: generated, with those of the stop sequence.
        cut_off: whether it ended for want of room, and not by itself.
        distinct: share of different ones among all runs of 4 tokens; ``None``: fewer than 4 tokens.
    """

    text: str
    tokens: int
    cut_off: bool
    distinct: float | None

    @classmethod
    def of(cls, text: str, tokens: Sequence[int], cut_off: bool) -> Text:
        """A text with what its tokens say of it."""
        grams = [*zip(*(tokens[start:] for start in range(GRAM)), strict=False)]
        distinct = round(len(set(grams)) / len(grams), 4) if grams else None
        return cls(text, len(tokens), cut_off, distinct)


class Texts:
    """The texts of some variants.

    The first line of the file says what the texts depend on besides variant and request. Every other is
    an entry: a text, ``{"variant", "asked", "index", "text": […]}``, or what the process that runs the
    engine tells of its work. A line that is not whole is not read.
    """

    def __init__(self, path: Path, scope: Mapping[str, str | None]) -> None:
        """Read the file; one of another scope begins anew.

        Raises:
            OutputError: the file cannot be written.
        """
        self.path = path
        self._texts: dict[tuple[str, str], dict[int, Text]] = {}
        entries = read_entries(path)
        if entries and entries[0] == {"scope": dict(scope)}:
            self.take(entries)
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # a link would be written through
            path.write_text(json.dumps({"scope": dict(scope)}), "utf-8")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}.") from error

    def take(self, entries: Iterable[Entry]) -> None:
        """Add the texts among some entries of the file; those of logits that were NaN are none."""
        for entry in entries:
            asked = (entry.get("variant", ""), entry.get("asked", ""))
            if "text" in entry:
                self._texts.setdefault(asked, {})[entry["index"]] = Text(*entry["text"])
            elif "nan" in entry:
                self._texts.pop(asked, None)

    def keep(self, entries: Iterable[Entry]) -> None:
        """Add entries, to the file as well.

        Raises:
            OutputError: the file cannot be written.
        """
        entries = [*entries]
        try:
            write_entries(self.path, entries)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}.") from error
        self.take(entries)

    def list_lacking(self, variant: str, asked: str, count: int) -> list[int]:
        """The requests, by number, to which a variant has not written anything yet.

        Args:
            asked: hash of all requests of the task.
            count: how many they are.
        """
        known = self.known(variant, asked)
        return [index for index in range(count) if index not in known]

    def known(self, variant: str, asked: str) -> dict[int, Text]:
        """What a variant has written so far, by the number of the request."""
        return dict(self._texts.get((variant, asked), {}))

    def of(self, variant: str, asked: str) -> list[Text]:
        """What a variant wrote to the requests of a task, in their order.

        Raises:
            KeyError: nothing.
        """
        known = self._texts[variant, asked]
        return [known[index] for index in sorted(known)]


class Tail:
    """Reads what is added to a file of entries."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, 0

    def read(self) -> list[Entry]:
        """The entries that are whole and were not read before; none where there is no file."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._seen)
            lines = file.read().split(b"\n")
        found = [_parse(line) for line in lines]
        half = 0 if found[-1] else len(lines[-1])
        self._seen += sum(map(len, lines)) + len(lines) - 1 - half
        return [entry for entry in found if entry is not None]


def read_kept(path: Path, scope: Mapping[str, str | None]) -> list[Entry]:
    """The entries of a file that somebody else writes; none where they are of another scope."""
    first, *entries = read_entries(path) or [{}]
    return entries if first == {"scope": dict(scope)} else []


def read_entries(path: Path) -> list[Entry]:
    """The whole entries of a file; none where there is no file."""
    return Tail(path).read()


def _parse(line: bytes) -> Entry | None:
    with contextlib.suppress(ValueError):
        entry = json.loads(line.decode("utf-8", errors="replace"))
        return entry if isinstance(entry, dict) else None
    return None


def write_entry(path: Path, **entry: Any) -> None:
    """Append an entry, which is behind a line feed, so that half a line before it spoils nothing."""
    write_entries(path, [entry])


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Append entries, each behind a line feed."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join("\n" + json.dumps(entry, separators=(",", ":")) for entry in entries))
