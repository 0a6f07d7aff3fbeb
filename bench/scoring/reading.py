"""Which files a task's code reads: they are part of the task, though its YAML does not name them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

_heard: list[set[str]] = []  # of what is being listened to, innermost last


@contextlib.contextmanager
def listen(files: set[str]) -> Iterator[None]:
    """Add the absolute paths of all files that this process opens for reading."""
    _listen()
    _heard.append(files)
    try:
        yield
    finally:
        _heard.remove(files)


@cache
def _listen() -> None:
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _heard or event != "open":
        return
    path, _, flags = arguments
    if isinstance(path, str | bytes) and not (flags or 0) & (os.O_WRONLY | os.O_RDWR):
        _heard[-1].add(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100


def beside(folder: Path, files: set[str]) -> list[Path]:
    """Those of some files that lie below a task's folder, but no Python: tracebacks read any of it."""
    found = [Path(file) for file in sorted(files) if not file.endswith((".py", ".pyc"))]
    return [file for file in found if file.is_relative_to(folder) and file.is_file()]
