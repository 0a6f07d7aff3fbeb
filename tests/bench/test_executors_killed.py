"""Runs on a cluster of which a worker, the driver or the head node is killed: the same command goes on.

20 moments, and how long it took: ``pytest -s tests/bench/test_executors_killed.py --kills 20``.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bench.clusters import Head, cluster
from tests.bench.results_left import left_by
from tests.bench.waiting import eventually

pytestmark = pytest.mark.slow
KINDS = ("worker", "driver", "head")
WORKERS = "RemoteWorker"
Suite = Callable[..., Path]
Start = Callable[[Head, Path], subprocess.Popen[str]]


@pytest.fixture(scope="module")
def suite(small_suite: dict[str, Any], write_small: Suite) -> Suite:
    """Writes a suite with several variants, and many batches."""
    prune = {"layers": [2, 3], "solvers": ["uidl", "lstsq", "reconstruct"]}
    return partial(write_small, prune=prune, score=small_suite["score"] | {"batch_tokens": 64})


@pytest.fixture(scope="module")
def start(command: str, suite: Suite) -> Start:
    """Starts the run, on a cluster into a folder."""
    path = suite(executor={"name": "ray", "workers": 2, "cpus": 1})

    def start(head: Head, out: Path) -> subprocess.Popen[str]:
        words = [command, "run", path, "--out", out, "--executor", "ray", "--address", head.address]
        errors = subprocess.PIPE
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors, text=True)

    return start


def is_left(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def kill(kind: str, run: subprocess.Popen[str], head: Head, moments: random.Random) -> None:
    """Kill a worker, the driver, or all of the head node that is not a worker."""
    if kind == "driver":
        run.kill()
    elif kind == "worker":
        moments.choice(head.find(WORKERS)).kill()
    else:
        for process in (*head.find("gcs_server"), *head.find("raylet/raylet")):
            process.kill()


def test_run_goes_on_after_kills_at_random_moments(
    call: Any, suite: Suite, start: Start, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    begun = time.monotonic()
    local = call("run", suite(), "--out", tmp_path / "local", env={"OMP_NUM_THREADS": "1"})
    duration = time.monotonic() - begun
    assert local.returncode == 0, local.stderr
    whole = left_by(tmp_path / "local")
    moments, kinds = random.Random(18), [*islice(cycle(KINDS), pytestconfig.getoption("--kills"))]
    killed: Counter[str] = Counter()
    out, runs = tmp_path / "out-0", 1
    while kinds:
        with cluster() as head:
            while kinds and head.find("gcs_server"):
                run = start(head, out)
                eventually(lambda run=run: bool(run.poll() is not None or head.find(WORKERS)), 100)
                time.sleep(moments.uniform(0, duration))
                started, kind = head.find(WORKERS), kinds[0]
                struck = bool(started) and run.poll() is None
                if struck:
                    kill(kind, run, head, moments)
                    killed[kinds.pop(0)] += 1
                at = time.monotonic()
                _, errors = run.communicate(timeout=200)
                took, last = time.monotonic() - at, errors.splitlines()[-1:]
                print(f"{kind}: {run.returncode} after {took:.1f} s, {last}")
                assert struck or run.returncode == 0, errors
                if run.returncode == 0:
                    assert left_by(out) == whole
                    out, runs = tmp_path / f"out-{runs}", runs + 1
                elif kind == "driver":
                    assert run.returncode == -signal.SIGKILL
                elif kind == "head" and run.returncode == 1:  # Ray itself was first, and ended it
                    assert "Traceback" not in errors
                else:
                    assert run.returncode == 2, errors
                    told = {"head": "the Ray cluster is gone", "worker": "a worker cannot start"}
                    assert told[kind] in last[0]  # a worker that is killed before anything computes
                    assert "Traceback" not in errors
                at = time.monotonic()
                eventually(lambda found=started: not any(map(is_left, found)), 120)
                print(f"  no worker left after {time.monotonic() - at:.1f} s")
    with cluster() as head:
        run = start(head, out)
        _, errors = run.communicate(timeout=250)
        assert run.returncode == 0, errors
    assert left_by(out) == whole
    print(f"{dict(killed)}, {runs} runs, an undisturbed one in this process takes {duration:.0f} s")
