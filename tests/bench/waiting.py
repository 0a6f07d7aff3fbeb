"""Other processes: finding them, and waiting for what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until a condition holds; it must within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def list_engines(folder: Path, module: str = "bench.serving.worker") -> list[psutil.Process]:
    """Engine processes that are given something in a folder; those of other tests may run as well.

    A process that has set its title has it as one word, which is cut off where there is no more room.
    """
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        _, named, given = command.partition(f"-m {module} ")
        if named and (str(folder) in given or str(folder).startswith(given.strip() or "-")):
            found.append(process)
    return found
