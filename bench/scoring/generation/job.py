"""What the process that runs the engine is to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Asked(_Part):
    """A task's requests, and those of them that are to be answered.

    Attributes:
        requests: their hash.
        file: with a line for each of them, see :func:`write_requests`.
        lacking: their numbers.
        sampled: whether tokens are drawn at random; then all are answered together.
    """

    requests: str
    file: Path
    lacking: list[int]
    sampled: bool


class Variant(_Part):
    """A checkpoint and what it is asked.

    Attributes:
        stem: of the cell.
    """

    stem: str
    folder: Path
    asked: list[Asked]


class Job(_Part):
    """Checkpoints of one shape, which one engine answers for in turn.

    Attributes:
        texts: file that is appended to.
        dtype: to compute in.
        kv_cache_bytes: for the KV cache on a CPU; ``None``: what the memory allows.
    """

    variants: list[Variant]
    texts: Path
    dtype: str
    kv_cache_bytes: int | None = None
    trust_remote_code: bool = False


def write_requests(path: Path, requests: list[tuple[str, dict[str, Any]]]) -> None:
    """Keep requests, each a prompt and how to go on from it, one a line."""
    lines = [json.dumps(request, separators=(",", ":")) for request in requests]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def read_requests(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The requests of a file, in their order."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            prompt, settings = json.loads(line)
            yield prompt, settings
