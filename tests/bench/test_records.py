"""Records on disk."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench import leaderboard
from bench.records import Metric, Prune, Record, Store, Task, read_record, write_atomically
from replaceme.errors import InputError, OutputError

SAMPLES = Path(__file__).parent / "samples"


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture
def record() -> Record:
    prune = Prune(
        blocks=[(2, 4)],
        loss=(7.5, math.nan),
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
    assert content["schema_version"] == 4
    assert content["prune"]["relative_error"] == [0.5, None]
    assert content["prune"]["loss"] == [7.5, None]
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


def test_record_of_the_first_schema_is_read_with_its_block_and_distances() -> None:
    old = json.loads((SAMPLES / "schema-1-pruned.json").read_text())
    record = read_record(SAMPLES / "schema-1-pruned.json")
    assert old["schema_version"] == 1
    assert record.schema_version == 4
    assert record.prune
    assert record.prune.blocks == [(13, 19)]
    assert record.prune.runner_up == [(12, 18)]
    assert record.prune.score == old["prune"]["distance"]
    assert record.prune.runner_up_score == old["prune"]["runner_up_distance"]
    assert record.prune.loss is record.prune.intact_loss is None
    kept = record.model_dump(mode="json", include={"quality", "serving", "identity"})
    assert {task["method"] for task in kept["quality"].values()} == {"per-variant"}
    for name, task in kept["quality"].items():
        kept["quality"][name] = {key: task[key] for key in old["quality"][name]}
    assert kept["serving"]["identity"]["settings"].pop("processes") == 1
    (kept["serving"]["result"],) = kept["serving"].pop("processes")
    assert kept == {key: old[key] for key in kept}


def test_baseline_of_the_first_schema_has_no_block() -> None:
    record = read_record(SAMPLES / "schema-1-baseline.json")
    assert record.prune
    assert record.prune.blocks == []
    assert record.prune.runner_up is record.prune.score is None


def test_upgraded_record_is_written_and_read_as_the_present_schema(tmp_path: Path) -> None:
    record = read_record(SAMPLES / "schema-1-pruned.json")
    Store(tmp_path).write("cell", record)
    assert json.loads(Store(tmp_path).path("cell").read_text())["schema_version"] == 4
    assert Store(tmp_path).read("cell") == record


def test_records_of_both_schemas_stand_in_one_table(record: Record) -> None:
    old = [read_record(path) for path in sorted(SAMPLES.glob("*.json"))]
    table = leaderboard.build([*old, record])
    blocks = {row.values["block"].text for group in table.groups for row in group.rows}
    assert blocks == {None, "[13, 19)", "[2, 4)"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prune": []}, r"x\.json: prune: Input should be a valid dictionary.*; remove it to compute"),
        ({"prune": {"blok": [2, 4]}}, r"x\.json: prune\.\w+: .*; remove it to compute the cell again"),
        ({"schema_version": "1"}, r"schema_version is 1, and this release reads up to 4"),
        ({"schema_version": None}, r"schema_version is None, and this release reads up to 4"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_damaged_record_of_the_first_schema_is_named(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    content = json.loads((SAMPLES / "schema-1-pruned.json").read_text()) | change
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_record(tmp_path / "x.json")
