"""What tasks asked and what models answered, kept for lm-eval's own readers.

Layout of a result folder: ``questions/TASK-HASH.jsonl.gz``, shared by all cells that were asked the
same, and ``responses/STEM/TASK-HASH.jsonl.gz``. A file's first line is its header, every other an entry.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from bench.names import file_name
from replaceme.errors import InputError
from replaceme.io.files import write_atomically

MOST_BYTES = 4 << 30  # of one file's entries


@dataclass(frozen=True)
class Questions:
    """What a task asks, and of what: items with their prompts, targets and hashes.

    Attributes:
        name: of the file, by its content.
    """

    name: str
    content: bytes

    @classmethod
    def of(cls, task: str, content: bytes) -> Questions:
        digest = hashlib.sha256(content).hexdigest()[:16]
        return cls(f"{file_name(task)}-{digest}.jsonl.gz", content)


@dataclass(frozen=True)
class Transcript:
    """What a task asked and one model answered."""

    questions: Questions
    responses: bytes


def packed(
    header: dict[str, Any], entries: Iterable[dict[str, Any]], default: Callable[[Any], Any]
) -> bytes:
    """A file's content; ``default`` turns what is not JSON into something that is."""
    buffer = BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=6) as file:
        for entry in (header, *entries):
            file.write(json.dumps(entry, default=default, separators=(",", ":")).encode() + b"\n")
    return buffer.getvalue()


def write(folder: Path, stem: str, task: str, transcript: Transcript) -> None:
    """Keep what a cell answered to a task.

    Raises:
        OutputError: it cannot be written.
    """
    questions = folder / "questions" / transcript.questions.name
    if not questions.is_file():
        write_atomically(questions, transcript.questions.content)
    write_atomically(_responses(folder, stem, task), transcript.responses)


def read(folder: Path, stem: str, task: str) -> tuple[dict[str, Any], Iterator[dict[str, Any]]] | None:
    """Headers, and entries in lm-eval's order with all that was asked and answered; ``None``: not kept.

    Raises:
        InputError: a file is damaged, which may show as late as in the last entry.
    """
    path = _responses(folder, stem, task)
    if not path.is_file():
        return None
    responses = _entries(path)
    header = next(responses, {})
    asked = folder / "questions" / Path(str(header.get("questions"))).name
    if not asked.is_file():
        return None
    questions = _entries(asked)
    about = next(questions, {})
    return about | header, _joined(path, responses, {entry.get("doc_id"): entry for entry in questions})


def _joined(
    path: Path, responses: Iterator[dict[str, Any]], questions: dict[Any, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    for response in responses:
        if (question := questions.get(response.get("doc_id"))) is None:
            raise _damaged(path)
        yield question | response


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    read = 0
    try:
        with gzip.open(path) as file:
            for line in file:
                read += len(line)
                entry = json.loads(line)
                if read > MOST_BYTES or not isinstance(entry, dict):
                    raise ValueError
                yield entry
    except (OSError, EOFError, zlib.error, ValueError, RecursionError):
        raise _damaged(path) from None


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged, or not a file of what was asked and answered; remove it.")


def _responses(folder: Path, stem: str, task: str) -> Path:
    digest = hashlib.sha256(task.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return folder / "responses" / stem / f"{file_name(task)}-{digest}.jsonl.gz"
