"""Answers to token requests, kept in a file from batch to batch."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.scoring.fork import Answer
from bench.scoring.trees import Request
from replaceme.errors import OutputError


class Answers:
    """What is known of each variant; a killed run loses the batch it was at.

    The first line of the file says what the answers depend on besides variant and request, and with how
    many tokens a batch they were computed. Then each batch has a line: ``{"requests": [key, …],
    "answers": {variant: [[Σ log p, greedy], …]}}``. A line that is not whole is not read.

    Attributes:
        budget: tokens of a batch; ``None`` until somebody decides.
    """

    def __init__(self, path: Path | None = None, scope: Mapping[str, str] | None = None) -> None:
        """Read the file; answers of another scope are not read, and are lost with the first new one."""
        self._path, self._scope = path, dict(scope or {})
        self._known: dict[str, dict[str, Answer]] = {}
        self.budget: int | None = None
        entries = [*_entries(path)] if path and path.is_file() else []
        self._started = bool(entries) and entries[0].get("scope") == self._scope
        if self._started:
            self.budget = entries[0]["budget"]
            for entry in entries[1:]:
                self._add(entry["requests"], entry["answers"])

    def _add(self, keys: list[str], answers: Mapping[str, Iterable[Sequence[Any]]]) -> None:
        for variant, found in answers.items():
            known = self._known.setdefault(variant, {})
            known.update(zip(keys, (Answer(*answer) for answer in found), strict=True))

    def of(self, variant: str, request: Request) -> Answer:
        """A variant's answer.

        Raises:
            KeyError: it is not known.
        """
        return self._known[variant][key(request)]

    def lacking(self, variants: Iterable[str], requests: Iterable[Request]) -> list[str]:
        """The variants of which an answer to one of the requests is not known."""
        keys = {key(request) for request in requests}
        return [name for name in variants if not keys <= self._known.get(name, {}).keys()]

    def keep(self, requests: list[Request], answers: dict[str, list[Answer]]) -> None:
        """Add the answers of a batch.

        Raises:
            OutputError: the file cannot be written.
        """
        keys = [key(request) for request in requests]
        self._add(keys, answers)
        if self._path is None:
            return
        lines = [] if self._started else [{"scope": self._scope, "budget": self.budget}]
        text = "".join(
            "\n" * self._started + json.dumps(line, separators=(",", ":")) + "\n"
            for line in [*lines, {"requests": keys, "answers": answers}]
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.is_symlink():  # it would be written through
                self._path.unlink()
            with self._path.open("a" if self._started else "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise OutputError(f"{self._path} cannot be written: {error.strerror}.") from error
        self._started = True


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text("utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            if isinstance(entry := json.loads(line), dict):
                yield entry


def key(request: Request) -> str:
    """Short stable name of a request."""
    text = repr((request.tokens, request.targets))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
