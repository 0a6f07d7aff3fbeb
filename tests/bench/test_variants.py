"""Suites with given blocks, several blocks, and every solver, run to the end."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.store import Store

pytestmark = pytest.mark.slow

Call = Callable[..., subprocess.CompletedProcess[str]]
WriteSuite = Callable[..., Path]
EVERY_SOLVER = [
    "uidl",
    {"name": "lstsq", "ridge": 0.1, "as": "ridge"},
    {"name": "cosine", "method": "irls", "iterations": 3},
    {"name": "relative", "diagonal": True},
    {"name": "refit", "ridge": 0.5},
    {"name": "reconstruct", "tokens": 200},
]


def test_given_blocks_are_removed_with_every_solver(
    call: Call, write_suite: WriteSuite, task_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prune = {"blocks": [[5, 7], [2, 3]], "solvers": EVERY_SOLVER}
    score = {"tasks": ["colours"], "include_path": str(task_folder), "limit": 2}
    result = call("run", write_suite(prune=prune, score=score), "--out", out)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("[2, 3) [5, 7)") == len(EVERY_SOLVER)
    records = {record.label: record for record in Store(out).all().values()}
    labels = ["ridge", "cosine", "relative", "refit", "reconstruct"]
    assert set(records) == {"baseline", "uidl", *labels}
    for label in ("uidl", *labels):
        prune_record = records[label].prune
        assert records[label].layers == 3
        assert prune_record
        assert prune_record.blocks == [(2, 3), (5, 7)]
        assert prune_record.score is prune_record.runner_up is None
        assert prune_record.loss
        assert (prune_record.loss[0] == prune_record.loss[1]) == (label == "uidl")
    for checkpoint in (out / "checkpoints").iterdir():
        assert json.loads((checkpoint / "config.json").read_text())["num_hidden_layers"] == 5


def test_several_chosen_blocks_stand_in_the_record(
    call: Call, write_suite: WriteSuite, task_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prune = {"layers": [2, 4], "num_blocks": 2, "selector": "perplexity", "solvers": ["uidl"]}
    score = {"tasks": ["colours"], "include_path": str(task_folder), "limit": 2}
    result = call("run", write_suite(prune=prune, score=score), "--out", out)
    assert result.returncode == 0, result.stdout + result.stderr
    for record in Store(out).all().values():
        if record.layers == 0:
            continue
        found = record.prune
        assert found
        assert found.runner_up
        assert sum(end - start for start, end in found.blocks) == record.layers
        assert sum(end - start for start, end in found.runner_up) == record.layers
        assert found.blocks != found.runner_up
        assert found.score is not None
        assert found.runner_up_score is not None
        assert found.score <= found.runner_up_score
