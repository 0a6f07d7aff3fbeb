"""Answers to token requests, kept in a file from batch to batch."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping
from math import isnan
from pathlib import Path
from typing import Any

from bench.scoring.heads import Answer
from bench.scoring.trees import Request, Tree
from replaceme.errors import OutputError


class Answers:
    """What is known of each variant; a killed run loses the batch it was at.

    The first line of the file says what the answers depend on besides variant and request, and with how
    many tokens a batch they were computed. Then each batch has a line: ``{"task": name, "requests":
    [key, …], "answers": {variant: [[Σ log p, greedy, divergences], …]}}``, the last as base64 of
    float32. A line that is not whole is not read, nor are answers of older releases, which lack
    divergences.

    Attributes:
        budget: tokens of a batch; ``None`` until somebody decides.
    """

    def __init__(self, path: Path | None = None, scope: Mapping[str, str] | None = None) -> None:
        """Read the file; answers of another scope are not read, and are lost with the first new one."""
        self._path, self._scope = path, dict(scope or {})
        self._known: dict[str, dict[str, Answer]] = {}
        self._tasks: dict[str, str] = {}  # of requests
        self.budget: int | None = None
        entries = [*_entries(path)] if path and path.is_file() else []
        self._started = bool(entries) and entries[0].get("scope") == self._scope
        if self._started:
            self.budget = entries[0]["budget"]
            for entry in entries[1:]:
                self._add(entry["requests"], entry["answers"], entry.get("task"))

    def _add(
        self, keys: list[str], answers: Mapping[str, Iterable[list[Any]]], task: str | None
    ) -> None:
        if task:
            self._tasks.update(dict.fromkeys(keys, task))
        for variant, found in answers.items():
            known = self._known.setdefault(variant, {})
            pairs = zip(keys, found, strict=True)
            known.update((key, _decode(row)) for key, row in pairs if len(row) == len(Answer._fields))

    def of(self, variant: str, request: Request) -> Answer:
        """A variant's answer.

        Raises:
            KeyError: it is not known.
        """
        return self._known[variant][key(request)]

    def task_of(self, request: Request) -> str | None:
        """The task that a request was answered for, as far as it is known."""
        return self._tasks.get(key(request)) if self._tasks else None

    def lists_nan(self, variant: str, requests: Iterable[Request]) -> bool:
        """Whether one of a variant's answers to some requests is not a number."""
        distinct = dict.fromkeys(requests)
        return any(isnan(self.of(variant, request).loglikelihood) for request in distinct)

    def lacking(self, variants: Iterable[str], requests: Iterable[Request]) -> list[str]:
        """The variants of which an answer to one of the requests is not known."""
        keys = {key(request) for request in requests}
        return [name for name in variants if not keys <= self._known.get(name, {}).keys()]

    def list_lacking(
        self, variants: Iterable[str], batches: Iterable[list[Tree]]
    ) -> dict[tuple[str, ...], list[list[Tree]]]:
        """The batches that variants have not answered whole, by the variants that lack them."""
        found: dict[tuple[str, ...], list[list[Tree]]] = {}
        for trees in batches:
            if names := self.lacking(variants, [request for tree in trees for request in tree.tails]):
                found.setdefault(tuple(names), []).append(trees)
        return found

    def keep(
        self, requests: list[Request], answers: dict[str, list[Answer]], task: str | None = None
    ) -> None:
        """Add the answers of a batch.

        Args:
            task: that they are for.

        Raises:
            OutputError: the file cannot be written.
        """
        keys = [key(request) for request in requests]
        if task:
            self._tasks.update(dict.fromkeys(keys, task))
        for variant, found in answers.items():
            self._known.setdefault(variant, {}).update(zip(keys, found, strict=True))
        if self._path is None:
            return
        rows = {variant: [*map(_encode, found)] for variant, found in answers.items()}
        lines = [] if self._started else [{"scope": self._scope, "budget": self.budget}]
        text = "".join(
            "\n" * self._started + json.dumps(line, separators=(",", ":")) + "\n"
            for line in [*lines, {"task": task, "requests": keys, "answers": rows}]
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


def _encode(answer: Answer) -> list[Any]:
    if answer.divergences is None:
        return [*answer]
    return [*answer[:2], base64.b64encode(answer.divergences.tobytes()).decode()]


def _decode(row: list[Any]) -> Answer:
    loglikelihood, greedy, text = row
    return Answer(loglikelihood, greedy, text and array("f", base64.b64decode(text)))


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text("utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            if isinstance(entry := json.loads(line), dict):
                yield entry


def key(request: Request) -> str:
    """Short stable name of a request."""
    text = repr((request.tokens, request.targets))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
