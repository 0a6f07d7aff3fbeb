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
    """Engine processes that are given something in a folder; those of other tests may run as well."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])  # one word where the process has set its title
        if f"-m {module} " in command and str(folder) in command:
            found.append(process)
    return found
