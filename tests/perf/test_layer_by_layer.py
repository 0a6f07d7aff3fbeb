"""A suite, and a training, on a random Llama under a limit on memory, against the same with the model in
memory: seconds, those of its phases, and peak memory, in ``extra_info``.

``--perf-shape 3b --perf-memory 3GB`` is a model of 6 GB; the usual one is small, and has a limit that
holds it but for some of its layers.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.large_model import DEMO
from tests.perf.test_memory import REPORT

pytestmark = pytest.mark.slow

SHAPES = {
    "small": {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 49_152,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 49_152,
    },
    "3b": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "vocab_size": 49_152,
    },
}
RUN = """
import sys
from bench.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
"""


def suite_of(model: Path, samples: int, limit: int) -> dict[str, Any]:
    return {
        "name": "layers",
        "models": [{"id": str(model), "dtype": "bfloat16"}],
        "prune": {"layers": [4], "solvers": ["uidl", "lstsq", "refit", "reconstruct"]},
        "calibration": {"samples": samples, "max_length": 256},
        "score": {
            "tasks": ["demo_facts", "demo_causes"],
            "include_path": str(DEMO),
            "limit": limit,
            "dtype": "bfloat16",
            "batch_tokens": 1024,
        },
        "keep_checkpoints": "none",
        "device": "cpu",
    }


def run(suite: Path, out: Path, *arguments: str) -> tuple[float, int]:
    """Seconds of a run, and peak resident bytes of its process."""
    began = time.perf_counter()
    command = [sys.executable, "-c", RUN + REPORT, "run", suite, "--out", out, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    printed = done.stdout
    return time.perf_counter() - began, int(printed.split()[-1])


def read_numbers(out: Path) -> dict[str, Any]:
    """Losses and scores of each variant."""
    found = {}
    for record in _records(out):
        scores = {task: score["metrics"] for task, score in record["quality"].items()}
        found[record["label"]] = record["prune"].get("loss"), scores
    return found


def sum_phases(out: Path) -> dict[str, float]:
    """Seconds of calibrating, of all fits, and of scoring."""
    pruned = [record["prune"] for record in _records(out) if record["prune"].get("solve_seconds")]
    passes = _records(out)[0]["quality"].values()  # which all variants share
    return {
        "calibration": pruned[0]["calibration_seconds"],
        "fits": sum(prune["solve_seconds"] for prune in pruned),
        "scores": sum(score["pass_seconds"] for score in passes),
    }


def _records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((out / "records").glob("*.json"))]


@pytest.fixture
def model(request: pytest.FixtureRequest, source: Path, tmp_path: Path) -> Iterator[Path]:
    """The random Llama, which takes its place on the disk only as long as it is used."""
    folder = tmp_path / "model"
    script = "import sys, json; from pathlib import Path; from tests.large_model import make_model; "
    script += "make_model(json.loads(sys.argv[1]), Path(sys.argv[2]), 'cpu', Path(sys.argv[3]))"
    shape = json.dumps(SHAPES[request.config.getoption("--perf-shape")])
    subprocess.run([sys.executable, "-c", script, shape, source, folder], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.benchmark(group="a suite layer by layer")
def test_suite_layer_by_layer(benchmark: Any, request: Any, model: Path, tmp_path: Path) -> None:
    option, suite = request.config.getoption, tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump(suite_of(model, option("--perf-windows"), 4)))
    memory, whole, walked = option("--perf-memory"), tmp_path / "whole", tmp_path / "walked"

    def measure() -> None:
        for out, arguments in ((whole, []), (walked, ["--memory", memory])):
            seconds, peak = run(suite, out, *arguments)
            benchmark.extra_info[out.name] = {"seconds": seconds, "peak_bytes": peak, **sum_phases(out)}

    benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info["memory"] = memory
    assert read_numbers(whole) == read_numbers(walked)


@pytest.mark.benchmark(group="a training layer by layer")
def test_training_layer_by_layer(benchmark: Any, request: Any, model: Path, tmp_path: Path) -> None:
    """Four steps of four sequences, of a projection in the middle alone."""
    if request.config.getoption("--perf-shape") == "small":
        pytest.skip("takes minutes, and test_healing_by_layers.py compares the same; --perf-shape 3b")
    option, suite = request.config.getoption, tmp_path / "suite.yaml"
    heal = {"tokens": 4 * 4 * 256, "batch_size": 4, "train": "projection", "checks": 1}
    content = suite_of(model, max(12, option("--perf-windows")), 1)
    layers = SHAPES[option("--perf-shape")]["num_hidden_layers"]
    content["prune"] = {
        "blocks": [[layers // 2, layers // 2 + 4]],
        "solvers": [{"name": "uidl", "heal": heal}],
    }
    content["score"]["tasks"] = ["demo_facts"]
    suite.write_text(yaml.safe_dump(content))
    memory, whole, walked = option("--perf-memory"), tmp_path / "whole", tmp_path / "walked"
    facts = []

    def measure() -> None:
        for out, arguments in ((whole, []), (walked, ["--memory", memory])):
            seconds, peak = run(suite, out, "--only", "*/4/*", *arguments)
            (record,) = _records(out)
            heal = record["heal"]
            benchmark.extra_info[out.name] = {"seconds": seconds, "peak_bytes": peak} | {
                "training": heal["seconds"]
            }
            facts.append((heal["divergence"], [point["held_back"] for point in heal["curve"]]))

    benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info["memory"] = memory
    assert facts[0] == facts[1]
