"""A suite on the small model, and the command line as a user calls it."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import yaml

if TYPE_CHECKING:
    from bench.records import Record

DEMO = Path(__file__).parent / "samples" / "demo"
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
def run_vllm() -> Callable[..., list[str]]:
    """Runs Python that imports vLLM in a process of its own; returns what it prints behind a mark."""

    def run(mark: str, *arguments: Any) -> list[str]:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        lines = done.stdout.splitlines()
        return [line.removeprefix(f"{mark} ") for line in lines if line.startswith(f"{mark} ")]

    return run


class Forked:
    """``replaceme-bench`` in forked children of one process that has imported everything: a second for
    a whole run, which can be killed. One child at a time."""

    def __init__(self, folder: Path) -> None:
        program, one_thread = Path(__file__).with_name("forking.py"), {"OMP_NUM_THREADS": "1"}
        self._output, self.pid, self._running = folder / "output", 0, False
        self._server = subprocess.Popen(
            [sys.executable, program],
            env=os.environ | {"COLUMNS": "200"} | one_thread,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments: Any, **changes: Any) -> int:
        """Start a command; returns its process id, which is also that of its group.

        Args:
            changes: ``fault``, ``file_limit``, ``ignored`` (see ``forking.py``).
        """
        if self._running:  # of a test that failed before it came to wait for it
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(self.pid, signal.SIGKILL)
            self.wait()
        request = {"arguments": [*map(str, arguments)], "output": str(self._output)}
        assert self._server.stdin and self._server.stdout
        for suffix in ("out", "err"):
            self._output.with_suffix(f".{suffix}").write_text("")
        self._server.stdin.write(json.dumps(request | changes) + "\n")
        self._server.stdin.flush()
        self.pid, self._running = int(self._server.stdout.readline()), True
        return self.pid

    def until(self, text: str) -> None:
        """Wait until the command has said something on stderr."""
        end = time.monotonic() + 100
        while text not in self._output.with_suffix(".err").read_text():
            assert time.monotonic() < end and psutil.pid_exists(self.pid), self.wait()
            time.sleep(0.002)

    def wait(self) -> subprocess.CompletedProcess[str]:
        """The end of the command."""
        assert self._server.stdout
        code, self._running = int(self._server.stdout.readline()), False
        texts = [self._output.with_suffix(f".{suffix}").read_text() for suffix in ("out", "err")]
        return subprocess.CompletedProcess([], code, *texts)

    def __call__(self, *arguments: Any, **changes: Any) -> subprocess.CompletedProcess[str]:
        self.start(*arguments, **changes)
        return self.wait()

    def close(self) -> None:
        with self._server:
            assert self._server.stdin
            self._server.stdin.close()


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """Runs ``replaceme-bench`` in a forked process."""
    server = Forked(tmp_path_factory.mktemp("forked"))
    yield server
    server.close()


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
def lm_eval_names() -> None:
    """lm-eval's names are in the cache, so that no command says that it asks for them."""
    from bench.tasks import index

    index.read_builtin()


@pytest.fixture(scope="session")
def refused(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Checks exit code 2, nothing on stdout, and one message on stderr with all ``parts``."""
    request.getfixturevalue("lm_eval_names")

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


@pytest.fixture(scope="session")
def write_small(
    small_suite: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Writes the small suite with some of its sections replaced, each time into a folder of its own."""

    def write(**changes: Any) -> Path:
        path = tmp_path_factory.mktemp("suite") / "suite.yaml"
        path.write_text(yaml.safe_dump(small_suite | changes))
        return path

    return write


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


class DemoCopy:
    """A copy of the demo's results that a test may change; cells are named like ``6/lstsq``."""

    def __init__(self, folder: Path, cells: Sequence[str]) -> None:
        from bench.store import Store

        self.folder, self.store = folder, Store(folder)
        shutil.copytree(DEMO / "records", folder / "records")
        shutil.copytree(DEMO / "samples", folder / "samples")
        if cells:
            for name in set(self._stems()) - set(cells):
                self.remove(name)

    def _stems(self) -> dict[str, str]:
        return {
            f"{record.layers}/{record.label}" if record.layers else record.label: stem
            for stem, record in self.store.all().items()
        }

    def stem(self, cell: str) -> str:
        return self._stems()[cell]

    def file(self, cell: str) -> Path:
        return self.store.path(self.stem(cell))

    def record(self, cell: str) -> Record:
        record = self.store.read(self.stem(cell))
        assert record is not None
        return record

    def remove(self, cell: str) -> None:
        self.file(cell).unlink()

    def change(self, cell: str, edit: Callable[[Record], Any]) -> None:
        """Have ``edit`` change a cell's record in place."""
        stem, record = self.stem(cell), self.record(cell)
        edit(record)
        self.store.write(stem, record)

    def scores(self, cell: str, task: str) -> list[float]:
        """The items' scores of a task's primary metric."""
        primary = self.record(cell).quality[task].primary
        return list(self.store.read_samples(self.stem(cell))[task][primary])

    def set_scores(self, cell: str, task: str, scores: list[float]) -> None:
        """Give a task's items other 0/1 scores, with the metric and standard error that follow."""
        stem, record = self.stem(cell), self.record(cell)
        samples, metric = self.store.read_samples(stem), record.quality[task].primary
        samples[task][metric] = scores
        self.store.write_samples(stem, samples)
        share = sum(scores) / len(scores)
        found = record.quality[task].metrics[metric]
        found.value, found.stderr = share, (share * (1 - share) / (len(scores) - 1)) ** 0.5
        self.store.write(stem, record)

    def set_perplexity(self, cell: str, task: str, shift: Any) -> None:
        """Make a task's perplexity its primary metric, with other log-likelihoods of its items."""
        stem, record = self.stem(cell), self.record(cell)
        samples = self.store.read_samples(stem)
        scores = samples[task]["perplexity"]
        scores[:] = (np.array(scores) + shift).tolist()
        self.store.write_samples(stem, samples)
        record.quality[task].primary = "perplexity"
        record.quality[task].metrics["perplexity"].value = math.exp(-sum(scores) / len(scores))
        self.store.write(stem, record)

    def reverse_items(self, cell: str, task: str) -> None:
        """Keep a task's items in the opposite order."""
        stem = self.stem(cell)
        samples = self.store.read_samples(stem)
        for column in samples[task].values():
            column.reverse()
        self.store.write_samples(stem, samples)

    def flip(self, cell: str, task: str, losses: int = 0, gains: int = 0) -> None:
        """Turn some right answers wrong, and some wrong ones right."""
        scores = self.scores(cell, task)
        right = [index for index, score in enumerate(scores) if score == 1]
        wrong = [index for index, score in enumerate(scores) if score == 0]
        for index in right[:losses]:
            scores[index] = 0.0
        for index in wrong[:gains]:
            scores[index] = 1.0
        self.set_scores(cell, task, scores)


@pytest.fixture
def demo(tmp_path: Path) -> Callable[..., DemoCopy]:
    """Copies the demo's results to a folder: ``demo("new", "baseline", "6/lstsq")``; no cells: all."""
    return lambda name, *cells: DemoCopy(tmp_path / name, cells)


@pytest.fixture
def pair(demo: Callable[..., DemoCopy]) -> tuple[DemoCopy, DemoCopy]:
    """Two equal result sets of a baseline and a variant."""
    return demo("base", "baseline", "6/lstsq"), demo("new", "baseline", "6/lstsq")


@pytest.fixture
def commit(tmp_path: Path) -> Callable[[str], str]:
    """Commits everything below ``tmp_path``, a repository of its own; returns the commit."""

    def git(*arguments: str) -> str:
        options = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *options, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(subject: str) -> str:
        git("init", "-q")
        git("add", "-A")
        git("commit", "-q", "--allow-empty", "-m", subject)
        return git("rev-parse", "HEAD")

    return commit


@pytest.fixture
def zero_positions(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, one pass answers as a model that does not heed the positions it is given."""

    def shift() -> None:
        import torch

        from bench.scoring.trees import TreeBatch

        init = TreeBatch.__init__

        def without(self: TreeBatch, trees: Any) -> None:
            init(self, trees)
            self.positions = torch.zeros_like(self.positions)

        monkeypatch.setattr(TreeBatch, "__init__", without)

    return shift
