"""What workers of Ray cost, and what they gain: a suite on two of one thread each against this process
with two threads; two models, and the sweep of one, on two workers against one; and a job that does
nothing, handed over.

By default a small part of the demo. The figures in ``results/perf/`` are of more:
``--perf-items 20 --perf-windows 32``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.run.executors import Job
from tests.bench.clusters import ray_here
from tests.large_model import DEMO

pytestmark = pytest.mark.slow

CALLS = 200
TASKS = ["demo_facts", "demo_grammar", "demo_lastword", "demo_retrieval", "demo_causes"]
SOLVERS = ["uidl", "lstsq", "cosine", "refit", "reconstruct"]


@pytest.fixture
def sizes(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of a suite: all of the demo but texts and serving, or a small part of it."""
    items = request.config.getoption("--perf-items")
    counts, solvers = ([3, 6, 9], SOLVERS) if items else ([6], ["uidl", "lstsq"])
    return {
        "prune": {"layers": counts, "solvers": solvers, "calibration_dtype": "float32"},
        "calibration": {"samples": request.config.getoption("--perf-windows"), "max_length": 256},
        "score": {
            "tasks": TASKS if items else TASKS[:1],
            "include_path": str(DEMO),
            "limit": items or 4,
            "dtype": "float32",
            "batch_tokens": 1024,
        },
    }


def run(
    sizes: dict[str, Any], models: list[Path], out: Path, threads: int, **executor: Any
) -> dict[str, float]:
    """Seconds of a run, and of these from the loading for its first sweep on."""
    content = {"name": out.name, "models": list(map(str, models)), "device": "cpu"} | sizes
    suite = out.with_suffix(".yaml")
    suite.write_text(yaml.safe_dump(content | ({"executor": executor} if executor else {})))
    command = [Path(sys.executable).with_name("replaceme-bench"), "run", suite, "--out", out]
    told, scoring = [], 0.0
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        for line in process.stderr:
            told.append(line)
            print(f"{time.perf_counter() - began:6.1f} {line}", end="")
            if not scoring and "loading for scoring" in line:
                scoring = time.perf_counter()
    ended = time.perf_counter()
    assert process.returncode == 0, "".join(told)
    return {"seconds": ended - began, "scoring": ended - (scoring or ended)}


def phases(out: Path) -> dict[str, float]:
    """Seconds of calibrating, of fits, and of computing answers, of all models, summed over workers."""
    records = [json.loads(path.read_text()) for path in (out / "records").glob("*.json")]
    fitted = {record["model"]: record["prune"] for record in records if record["prune"]["blocks"]}
    passes = {record["model"]: record["quality"].values() for record in records}
    return {
        "calibration": sum(prune["calibration_seconds"] for prune in fitted.values()),
        "fits": sum(record["prune"].get("solve_seconds") or 0.0 for record in records),
        "sweeps": sum(task["pass_seconds"] for tasks in passes.values() for task in tasks),
    }


def on_ray(workers: int) -> dict[str, Any]:
    return {"name": "ray", "workers": workers, "cpus": 1}


@pytest.mark.benchmark(group="a suite on two workers of Ray")
def test_suite_on_workers(benchmark: Any, sizes: Any, source: Path, tmp_path: Path) -> None:
    def measure() -> None:
        for name, threads, executor in (("local", 2, {}), ("ray", 1, on_ray(2))):
            out = tmp_path / name
            seconds = run(sizes, [source], out, threads, **executor)
            benchmark.extra_info[name] = seconds | phases(out)

    benchmark.pedantic(measure, rounds=1)


@pytest.mark.benchmark(group="two models on two workers of Ray")
def test_two_models_on_workers(
    benchmark: Any, sizes: Any, source: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not request.config.getoption("--perf-items"):
        pytest.skip("takes minutes, and shows no more than the suite does; --perf-items runs it")
    models = [shutil.copytree(source, tmp_path / name) for name in ("one", "two")]
    sizes["prune"] |= {"layers": [6], "solvers": SOLVERS[1:]}

    def measure() -> None:
        for workers in (1, 2):
            out = tmp_path / f"workers-{workers}"
            seconds = run(sizes, models, out, 1, **on_ray(workers))
            benchmark.extra_info[out.name] = seconds | phases(out)

    benchmark.pedantic(measure, rounds=1)


@pytest.mark.benchmark(group="a sweep on two workers of Ray")
def test_sweep_on_workers(benchmark: Any, sizes: Any, source: Path, tmp_path: Path) -> None:
    """All tasks on one model that is pruned already."""
    pruned = tmp_path / "pruned"
    sizes["prune"] |= {"solvers": SOLVERS[:4]}
    run(sizes | {"score": sizes["score"] | {"tasks": TASKS[:1], "limit": 1}}, [source], pruned, 2)

    def measure() -> None:
        for workers in (1, 2):
            out = shutil.copytree(pruned, tmp_path / f"workers-{workers}")
            seconds = run(sizes, [source], out, 1, **on_ray(workers))
            benchmark.extra_info[out.name] = seconds | phases(out)

    benchmark.pedantic(measure, rounds=1)


@pytest.mark.benchmark(group="a job of Ray")
@pytest.mark.parametrize("megabytes", [0, 1, 100])
def test_job_that_does_nothing(benchmark: Any, megabytes: int, tmp_path: Path) -> None:
    """Seconds from giving it away to its result, with an argument of some size."""
    jobs = [Job(len, (bytes(megabytes * 10**6),))] * (CALLS if megabytes < 100 else 10)
    with ray_here(tmp_path, workers=1) as executor:

        def measure() -> None:
            began = time.perf_counter()
            assert len([*executor.run(jobs, lambda *_: None)]) == len(jobs)
            benchmark.extra_info["seconds_of_a_job"] = (time.perf_counter() - began) / len(jobs)

        benchmark.pedantic(measure, rounds=3, warmup_rounds=1)
