"""A suite that names everything by hub id, run offline from folders laid out like the hub's caches."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.store import Store

pytestmark = pytest.mark.slow

SCIQ = [
    {
        "support": f"Box {i} holds {thing}.",
        "question": f"What does box {i} hold?",
        "correct_answer": thing,
        "distractor1": "stones",
        "distractor2": "water",
        "distractor3": "bread",
    }
    for i, thing in enumerate(["salt", "gold", "wool", "sand", "milk", "corn"])
]
ANSWER = {"from": "gpt", "value": "A number."}
CHATS = [{"conversations": [{"from": "human", "value": f"What is {i}?"}, ANSWER]} for i in range(12)]


def cache_dataset(home: Path, name: str, splits: dict[str, list[dict[str, Any]]]) -> None:
    """Leave a data set in the cache of ``datasets`` as a download would."""
    import datasets

    owner, _, short = name.partition("/")
    folder, cache = home / "made" / short, home / "datasets"
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    datasets.load_dataset(str(folder), cache_dir=str(cache))
    (made,) = (cache / short).iterdir()
    made.rename(made.with_name("default"))
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in short).lstrip("_")
    (cache / short).rename(cache / f"{owner}___{snake}")


@pytest.fixture
def home(tiny: Path, tmp_path: Path) -> Path:
    """``HF_HOME`` with a model, a task's data set and a chat data set."""
    repository = tmp_path / "home" / "hub" / "models--acme--tiny"
    shutil.copytree(tiny, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    splits = dict.fromkeys(("train", "validation", "test"), SCIQ)
    cache_dataset(tmp_path / "home", "allenai/sciq", splits)
    cache_dataset(tmp_path / "home", "acme/chats", {"train": CHATS})
    return tmp_path / "home"


def test_models_tasks_and_calibration_by_hub_id(
    call: Callable[..., subprocess.CompletedProcess[str]], home: Path, tmp_path: Path
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        """
name: hub
models: [acme/tiny]
prune: {layers: [2], solvers: [lstsq]}
calibration: {dataset: acme/chats, column: conversations, samples: 10, max_length: 32}
score: {tasks: [sciq]}
device: cpu
"""
    )
    result = call("run", suite, "--out", tmp_path / "out", env=os.environ | {"HF_HOME": str(home)})
    assert result.returncode == 0, result.stdout + result.stderr
    records = {record.label: record for record in Store(tmp_path / "out").all().values()}
    assert {record.quality["sciq"].items for record in records.values()} == {len(SCIQ)}
    assert (step := records["lstsq"].identity.prune)
    assert step.calibration.data == "hub:acme/chats@main"
    assert records["lstsq"].prune
    assert records["lstsq"].prune.calibration_tokens
    assert records["lstsq"].identity.model.weights == "hub:acme/tiny@main"
    (said,) = (tmp_path / "out" / "checkpoints").glob("*/replaceme.json")
    assert json.loads(said.read_text())["weights"] == "hub:acme/tiny@abc"


def test_hub_model_that_is_not_supported_fails_its_cells_by_name(
    call: Callable[..., subprocess.CompletedProcess[str]], home: Path, tmp_path: Path
) -> None:
    (path,) = (home / "hub").glob("models--acme--tiny/snapshots/abc/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "frob"}))
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "name: hub\nmodels: [acme/tiny]\nprune: {layers: [2], solvers: [uidl]}\nscore: {tasks: [sciq]}\n"
    )
    result = call("run", suite, "--out", tmp_path / "out", env=os.environ | {"HF_HOME": str(home)})
    assert result.returncode == 3
    assert "unsupported architecture 'frob'" in result.stdout
