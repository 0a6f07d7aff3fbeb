"""A YAML file → plain values, each with the file and line it stands in.

Nothing in a file can hurt who reads it: only regular files of bounded size are opened, no tag makes an
object, and aliases, depth and numbers are bounded before anything is built from them.
"""

from __future__ import annotations

import math
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from replaceme.errors import InputError

MOST_BYTES = 256 * 1024
MOST_VALUES = 10_000
MOST_LEVELS = 40
MOST_DIGITS = 40
LARGEST = 2**63
TAG = "tag:yaml.org,2002:"
DAY = re.compile(r"\d{4}-\d\d-\d\d")  # stays a text, as everything that YAML makes no number of


@dataclass(frozen=True)
class Entry:
    """A value of a file: a mapping of entries, a list of entries, or a scalar.

    Attributes:
        path: the file.
        line: of its key, or of itself in a list; 1-based.
    """

    value: Any
    path: Path
    line: int

    @property
    def where(self) -> str:
        return f"{self.path}:{self.line}"

    def at(self, location: tuple[int | str, ...]) -> Entry:
        """The deepest part of ``location`` that there is."""
        entry = self
        for part in location:
            children = entry.value
            known = range(len(children)) if isinstance(children, list) else children
            if not isinstance(children, dict | list) or part not in known:
                break
            entry = children[part]  # type: ignore[index]
        return entry

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: entry.plain() for key, entry in self.value.items()}
        if isinstance(self.value, list):
            return [entry.plain() for entry in self.value]
        return self.value


def read(path: Path, repeated: list[str] | None = None) -> Entry:
    """The mapping that a file holds.

    Args:
        repeated: a key that stands twice is refused, or, with a list, the last one counts, and a
            sentence about it is put there.

    Raises:
        InputError: not readable, not YAML, not a mapping, or more than a settings file needs.
    """
    text = text_of(path)
    try:
        loader = _Loader(text, path, repeated)
        node = loader.get_single_node()
        found = loader.entry(node, node.start_mark.line) if node else None
        if found is None or not isinstance(found.value, dict):
            raise InputError(
                f"{path}:1: the file must be a mapping of keys to values, such as 'name: demo'."
            )
        return found
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(
            f"{path}:{line}: not valid YAML (the character U+{int(error.character):04X} is not allowed)."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line_number = f":{mark.line + 1}" if mark else ""
        problem = shown(str(getattr(error, "problem", error)))
        raise InputError(f"{path}{line_number}: not valid YAML ({problem}).") from None


def text_of(path: Path, most: int = MOST_BYTES) -> str:
    """The text of a regular file; a byte-order mark is dropped.

    Raises:
        InputError: it cannot be read, is no regular file, is larger than ``most`` bytes, or not UTF-8.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without a writer would block
        with os.fdopen(handle, "rb") as file:
            kind = os.fstat(file.fileno()).st_mode
            data = file.read(most + 1) if stat.S_ISREG(kind) else None
        if data is None:
            raise InputError(f"{path} cannot be read: it is no regular file.")
        if len(data) > most:
            raise InputError(f"{path} cannot be read: it is larger than {most // 1024} KiB.")
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{shown(str(path))} cannot be read: {reason}.") from None


def shown(text: str, most: int = 200) -> str:
    """A text for a message: what a terminal would act on is escaped, and a long one is cut."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: most + 1])
    return text if len(text) <= most else text[:most] + "…"


class _Loader(yaml.SafeLoader):
    """Composes nodes within bounds, and makes entries of them."""

    def __init__(self, text: str, path: Path, repeated: list[str] | None) -> None:
        super().__init__(text)
        self.path, self.level, self.composed, self.made = path, 0, 0, 0
        self.repeated = repeated
        self.open: set[int] = set()  # nodes that are being made

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.level += 1
        self.composed += 1
        line = self.peek_event().start_mark.line
        if self.level > MOST_LEVELS:
            raise self._refusal(line, f"values nested more than {MOST_LEVELS} deep.")
        if self.composed > MOST_VALUES:
            raise self._refusal(line, f"more than {MOST_VALUES:,} values.")
        node = super().compose_node(parent, index)
        self.level -= 1
        return node

    def entry(self, node: yaml.Node, line: int) -> Entry:
        self.made += 1 + (len(node.value) // 1000 if isinstance(node, yaml.ScalarNode) else 0)
        if self.made > MOST_VALUES:
            raise self._refusal(line, f"aliases make more than {MOST_VALUES:,} values of it.")
        if id(node) in self.open:
            raise self._refusal(line, "an alias means the value that it stands in.")
        if len(self.open) >= MOST_LEVELS:
            raise self._refusal(line, f"values nested more than {MOST_LEVELS} deep.")
        self.open.add(id(node))
        value: Any
        if isinstance(node, yaml.MappingNode):
            value = self._mapping(node)
        elif isinstance(node, yaml.SequenceNode):
            self._check_tag(node, "seq")
            value = [self.entry(child, child.start_mark.line) for child in node.value]
        else:
            assert isinstance(node, yaml.ScalarNode)
            value = self._scalar(node)
        self.open.remove(id(node))
        return Entry(value, self.path, line + 1)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Entry]:
        self._check_tag(node, "map")
        own: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.value:
            line = key.start_mark.line
            if key.tag == f"{TAG}merge":
                merged = self._merge(value, line) | merged
                continue
            name = self._key(key)
            if name in own:
                refusal = self._refusal(line, f"the key {shown(repr(name))} stands twice.")
                if self.repeated is None:
                    raise refusal
                self.repeated.append(f"{str(refusal)[:-1]}; the last one counts.")
            own[name] = self.entry(value, line)
        return merged | own

    def _merge(self, node: yaml.Node, line: int) -> dict[str, Entry]:
        """What the merge key ``<<`` brings: a mapping, or several, of which the first counts."""
        value = self.entry(node, line).value
        parts = value if isinstance(value, list) else [Entry(value, self.path, line)]
        found: dict[str, Entry] = {}
        for part in parts:
            if not isinstance(part.value, dict):
                raise self._refusal(line, "'<<' takes a mapping, or a list of mappings.")
            found = part.value | found
        return found

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._refusal(node.start_mark.line, "a key must be a text.")
        if node.tag not in (f"{TAG}str", f"{TAG}value"):
            raise self._refusal(
                node.start_mark.line, f"the key {shown(node.value)} is no text; write it in quotes."
            )
        return self._text(node)

    def _text(self, node: yaml.ScalarNode) -> str:
        if any("\ud800" <= char <= "\udfff" for char in node.value):
            raise self._refusal(
                node.start_mark.line, f"the text {shown(node.value)!r} holds half of a character."
            )
        return str(node.value)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(TAG)
        if kind in ("str", "value"):
            return self._text(node)
        if kind == "null":
            return None
        if kind == "bool" and node.value.lower() in self.bool_values:
            return self.bool_values[node.value.lower()]
        if kind in ("int", "float"):
            return self._number(node, kind)
        if kind == "timestamp" and DAY.fullmatch(node.value):
            return node.value
        if kind == "timestamp":
            raise self._refusal(
                node.start_mark.line, f"YAML reads {shown(node.value)} as a date; write it in quotes."
            )
        raise self._tag_refusal(node)

    def _number(self, node: yaml.ScalarNode, kind: str) -> int | float:
        make = self.construct_yaml_int if kind == "int" else self.construct_yaml_float
        try:
            number = make(node) if len(node.value) <= MOST_DIGITS else math.inf
        except (ValueError, IndexError, OverflowError):
            number = math.nan
        if not abs(number) < LARGEST:  # not a number is not less either
            raise self._refusal(
                node.start_mark.line,
                f"{shown(node.value, MOST_DIGITS)} is not a number of reasonable size.",
            )
        return number

    def _check_tag(self, node: yaml.Node, kind: str) -> None:
        if node.tag != TAG + kind:
            raise self._tag_refusal(node)

    def _tag_refusal(self, node: yaml.Node) -> InputError:
        tag = node.tag.replace(TAG, "!!")
        return self._refusal(
            node.start_mark.line, f"not valid YAML (the tag {shown(repr(tag))} is not allowed)."
        )

    def _refusal(self, line: int, text: str) -> InputError:
        return InputError(f"{self.path}:{line + 1}: {text}")
