"""Suites under a limit on memory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import replaceme.memory
from replaceme.checkpoint import Checkpoint
from replaceme.healing import Training
from replaceme.healing.need import Sizes
from replaceme.memory import Gauge
from replaceme.selection import Block
from tests.bench.test_run import by_label, stable

Call = Callable[..., subprocess.CompletedProcess[str]]
WriteSuite = Callable[..., Path]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The process seems to take no memory; the models that were opened layer by layer."""
    found: list[Path] = []
    open_layers: Callable[..., Any] = replaceme.memory.open_layers

    def note(folder: Path, *arguments: Any) -> Any:
        found.append(folder)
        return open_layers(folder, *arguments)

    monkeypatch.setattr(Gauge, "used", lambda _: 0)
    monkeypatch.setattr(Gauge, "peak", lambda _: 0)
    monkeypatch.setattr(replaceme.memory, "open_layers", note)
    return found


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_limit_without_a_unit_or_too_small_is_refused_before_anything_starts(
    call_here: Call, refused: Callable[..., None], write_suite: WriteSuite, tmp_path: Path, verb: str
) -> None:
    out = tmp_path / "out"
    suite = write_suite(memory="20kB")
    refused(call_here(verb, suite, "--out", out), "20.0 kB is too small for model tiny", "the least is")
    refused(call_here(verb, write_suite(memory=20), "--out", out), "suite.yaml", "memory", "unit")
    result = call_here(verb, write_suite(), "--out", out, "--memory", "20")
    assert result.returncode == 2
    assert "write a number and" in result.stderr
    assert not (out / "records").exists()


def test_plan_says_how_models_are_held(call_here: Call, write_suite: WriteSuite, tmp_path: Path) -> None:
    def plan(*arguments: str) -> str:
        return call_here("plan", write_suite(), "--out", tmp_path / "out", *arguments).stdout

    found = json.loads(plan("--json"))["memory"]
    ((name, sizes),) = found["models"].items()
    assert name == "tiny" and found["limit"] is None
    assert 0 < sizes["layer_by_layer"] < sizes["whole"]
    assert "tiny takes" in plan() and "at the least" in plan()
    assert "layer by layer" not in plan("--memory", "1GiB")
    assert "tiny takes" in plan("--memory", "1GiB")
    assert "is read layer by layer" in plan("--memory", f"{sizes['whole'] / 1000 - 1:.3f}kB")


@pytest.mark.slow
def test_records_are_the_same_with_models_layer_by_layer(
    call_here: Call, write_suite: WriteSuite, tmp_path: Path, opened: list[Path]
) -> None:
    suite = write_suite(prune={"layers": [2, 3], "solvers": ["uidl", "lstsq", "reconstruct"]})
    for name, memory in (("whole", []), ("walked", ["--memory", "700kB"])):
        done = call_here("run", suite, "--out", tmp_path / name, *memory)
        assert done.returncode == 0, done.stderr
        assert len(opened) == (1 + 6 + 1) * bool(memory)  # calibrated, confirmed, scored
    whole, walked = stable(tmp_path / "whole"), stable(tmp_path / "walked")
    reloaded = [
        [content["prune"].pop("reloaded_loss") for content, _ in found.values()]
        for found in (whole, walked)
    ]
    assert whole == walked
    sure = [[loss for loss in losses if loss is not None] for losses in reloaded]
    assert sure[0] == pytest.approx(sure[1], abs=1e-5)  # summed in another order


@pytest.mark.slow
def test_healing_is_the_same_with_layers_one_by_one(
    call_here: Call, write_suite: WriteSuite, tiny: Path, tmp_path: Path, opened: list[Path]
) -> None:
    heal = {"tokens": 3000, "learning_rate": 3e-3, "batch_size": 4}
    solvers = [{"name": "lstsq", "heal": heal, "as": "healed"}]
    suite = write_suite(prune={"layers": [2], "solvers": solvers})
    facts, said = [], list[str]()
    for name in ("whole", "brought"):
        done = call_here("run", suite, "--out", tmp_path / name, "--only", "*/healed", *said)
        assert done.returncode == 0, done.stderr
        assert len(opened) == bool(said)
        record = by_label(tmp_path / name)["healed"]
        assert record.heal and record.heal.used and record.prune
        without = {"curve": {"__all__": {"seconds"}}, "seconds": True, "peak_memory_bytes": True}
        facts.append((record.heal.model_dump(exclude=without), record.quality["colours"].metrics))
        blocks = [Block(*block) for block in record.prune.blocks]
        sizes = Sizes.of(Checkpoint.open(str(tiny)))
        need = sizes.compute_need(Training(**heal), 32, blocks, False, "cpu")
        said = ["--memory", f"{need.within(need.whole - 1) / 1000:.3f}kB"]
    assert facts[0] == facts[1]
