"""Records on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench import leaderboard
from bench.records import Metric, Prune, Record, Store, Task, write_atomically
from replaceme.errors import OutputError


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture
def record() -> Record:
    prune = Prune(
        block=(2, 4),
        relative_error=(0.5, math.nan),
        notes={"last_loss": math.inf},
        dtype="float32",
        parameters=10,
        checkpoint_bytes=40,
    )
    task = Task(
        identity={},
        primary="perplexity",
        average=True,
        metrics={"perplexity": Metric(value=math.inf, stderr=math.nan, higher_is_better=False)},
        items=3,
        version=None,
        num_fewshot=0,
        seconds=1.0,
    )
    return Record(
        model="m", model_id="m", layers=2, label="é", identity={}, prune=prune, quality={"t": task}
    )


def test_what_is_not_finite_is_null_and_reads_back_as_unknown(record: Record, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("cell", record)
    content = json.loads(store.path("cell").read_text(), parse_constant=refuse)
    assert content["quality"]["t"]["metrics"]["perplexity"]["value"] is None
    assert content["prune"]["relative_error"] == [0.5, None]
    again = store.read("cell")
    assert again
    assert again.model_dump(exclude={"prune"}) == record.model_dump(exclude={"prune"})
    (group,) = leaderboard.build([again]).groups
    assert group.rows[0].values["average"].number is None


def test_samples_come_back_as_written(tmp_path: Path) -> None:
    samples = {"t": {"doc_id": [0, 1], "acc": [1.0, 0.0]}}
    Store(tmp_path).write_samples("cell", samples)
    assert Store(tmp_path).read_samples("cell") == samples
    assert Store(tmp_path).read_samples("other") == {}


def test_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_atomically(path, b"old")
    with pytest.raises(OutputError, match=r"b\.json/c cannot be written: Not a directory|File exists"):
        write_atomically(path / "c", b"new")
    assert path.read_bytes() == b"old"
    assert [found.name for found in path.parent.iterdir()] == ["b.json"]
