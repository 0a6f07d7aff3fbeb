"""A suite on the small model, and the command line as a user calls it."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

COLOURS = ["red", "blue", "green", "white", "black", "brown"]


@pytest.fixture(scope="session")
def command() -> str:
    """Path of the installed ``replaceme-bench``."""
    return str(Path(sys.executable).with_name("replaceme-bench"))


@pytest.fixture(scope="session")
def call(command: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``replaceme-bench`` with some arguments in a process of its own."""

    def call(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
        options["env"] = os.environ | {"COLUMNS": "200"} | options.pop("env", {})
        return subprocess.run(
            [command, *map(str, arguments)], capture_output=True, text=True, timeout=300, **options
        )

    return call


@pytest.fixture(scope="session")
def call_here() -> Callable[..., subprocess.CompletedProcess[str]]:
    """As ``call``, in this process: quick where torch has to be imported."""
    from click.testing import CliRunner

    from bench.cli import main

    def call(*arguments: Any) -> subprocess.CompletedProcess[str]:
        words = list(map(str, arguments))
        result = CliRunner().invoke(main, words)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return subprocess.CompletedProcess(words, result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture(scope="session")
def refused() -> Callable[..., None]:
    """Checks exit code 2, nothing on stdout, and one message on stderr with all ``parts``."""

    def refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
        assert result.returncode == 2, result.stderr
        assert not result.stdout
        assert result.stderr.startswith("Error: ")
        assert "Traceback" not in result.stderr
        for part in parts:
            assert part in result.stderr

    return refused


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two lm-eval tasks: ``colours`` (two choices) and ``endings`` (last word)."""
    folder = tmp_path_factory.mktemp("tasks")
    items = [
        {"question": f"Box {i} is {COLOURS[i % 6]}. The colour of box {i} is", "answer": i % 2}
        | {"choices": sorted([COLOURS[i % 6], COLOURS[(i + 1) % 6]], reverse=i % 6 == 5)}
        for i in range(24)
    ]
    lines = "\n".join(json.dumps(item) for item in items)
    (folder / "colours.jsonl").write_text(lines)
    for name, changes in TASKS.items():
        shared = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": "colours.jsonl"}},
            "test_split": "test",
            "doc_to_text": "{{question}}",
            "metadata": {"version": 1.0},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(shared | changes))
    return folder


TASKS: dict[str, dict[str, Any]] = {
    "colours": {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "endings": {
        "output_type": "loglikelihood",
        "doc_to_target": "{{' ' + choices[0]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
}


@pytest.fixture(scope="session")
def small_suite(tiny: Path, task_folder: Path) -> dict[str, Any]:
    """The mapping of a valid suite: a baseline and two variants, no serving; not to be changed."""
    return {
        "name": "small",
        "models": [str(tiny)],
        "prune": {"layers": [2], "solvers": ["uidl", "lstsq"]},
        "calibration": {"samples": 16, "max_length": 32},
        "score": {
            "tasks": ["colours", "endings"],
            "include_path": str(task_folder),
            "batch_tokens": 512,
        },
        "device": "cpu",
    }


@pytest.fixture
def content(small_suite: dict[str, Any]) -> dict[str, Any]:
    """A copy of the small suite that a test may change."""
    return copy.deepcopy(small_suite)


@pytest.fixture
def write_suite(tmp_path: Path, content: dict[str, Any]) -> Callable[..., Path]:
    """Writes the suite with some of its sections replaced: ``write_suite(prune={…})``."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "suite.yaml"
        path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return path

    return write
