"""Readers of the output that have gone, or have no room."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "words",
    [
        ("report", "results/demo"),
        ("report", "results/demo", "--format", "json"),
        ("compare", "results/demo", "results/demo"),
        ("pick", "results/demo"),
        ("history", "results/demo"),
        ("list", "solvers"),
        ("schema", "suite"),
    ],
    ids=" ".join,
)
def test_reader_that_has_gone_and_reader_that_is_full(command: str, words: tuple[str, ...]) -> None:
    root = Path(__file__).parents[3]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([command, *words], stdout=write, stderr=subprocess.PIPE, text=True, cwd=root)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [command, *words], stdout=full, stderr=subprocess.PIPE, text=True, cwd=root
        )
    assert done.returncode == 2
    assert done.stderr == "Error: standard output cannot be written: No space left on device.\n"


def test_regression_is_told_though_nobody_reads(command: str, demo: Any) -> None:
    base, new = demo("base", "baseline", "6/lstsq"), demo("new", "baseline", "6/lstsq")
    new.flip("6/lstsq", "demo_facts", losses=60)
    read, write = os.pipe()
    os.close(read)
    words = [command, "compare", str(base.folder), str(new.folder)]
    assert subprocess.run(words, stdout=write, stderr=subprocess.PIPE).returncode == 1
    os.close(write)
