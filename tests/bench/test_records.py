"""Records on disk."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.leaderboard import leaderboard
from bench.records import SCHEMA_VERSION, Metric, Prune, Record, Task
from bench.store import Store, read_record
from replaceme.errors import InputError, OutputError
from replaceme.io.files import write_atomically

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
    assert content["schema_version"] == SCHEMA_VERSION
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
    assert record.schema_version == SCHEMA_VERSION
    assert record.prune
    assert record.prune.blocks == [(13, 19)]
    assert record.prune.runner_up == [(12, 18)]
    assert record.prune.score == old["prune"]["distance"]
    assert record.prune.runner_up_score == old["prune"]["runner_up_distance"]
    assert record.prune.loss is record.prune.intact_loss is None
    kept = record.model_dump(mode="json", include={"quality", "serving"})
    kept["identity"] = record.identity.canonical()
    assert {task["method"] for task in kept["quality"].values()} == {"per-variant"}
    for name, task in kept["quality"].items():
        kept["quality"][name] = {key: task[key] for key in old["quality"][name]}
    assert kept["serving"]["identity"]["settings"].pop("processes") == 1
    assert not _take_neighbours(kept)
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
    assert json.loads(Store(tmp_path).path("cell").read_text())["schema_version"] == SCHEMA_VERSION
    assert Store(tmp_path).read("cell") == record


def test_records_of_all_schemas_stand_in_one_table(record: Record) -> None:
    old = [read_record(path) for path in sorted(SAMPLES.glob("*.json"))]
    table = leaderboard.build([*old, record])
    blocks = {row.values["block"].text for group in table.groups for row in group.rows}
    assert blocks == {None, "[13, 19)", "[6, 8)", "[2, 4)", "[10, 19)"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prune": []}, r"x\.json: prune: Input should be a valid dictionary.*; remove it to compute"),
        ({"prune": {"blok": [2, 4]}}, r"x\.json: prune\.\w+: .*; remove it to compute the cell again"),
        ({"schema_version": "1"}, r"schema_version is 1, and this release reads up to 8"),
        ({"schema_version": None}, r"schema_version is None, and this release reads up to 8"),
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


CHANGES = ("flips", "divergence", "generation")  # what a task has since schema 7
NEWER = ("reloaded_loss", "calibration_hash", "calibration_rows", "divergence", "loaded_with")


@pytest.mark.parametrize("version", [2, 3])
def test_record_of_a_later_schema_keeps_all_it_says(version: int) -> None:
    old = json.loads((SAMPLES / f"schema-{version}-pruned.json").read_text())
    record = read_record(SAMPLES / f"schema-{version}-pruned.json")
    assert old["schema_version"] == version
    assert record.schema_version == SCHEMA_VERSION
    assert record.serving
    assert record.prune
    assert record.prune.distances is None
    assert {task.method for task in record.quality.values()} == {
        "one-pass" if version > 2 else "per-variant"
    }
    kept = record.model_dump(mode="json", exclude={"schema_version", "groups", "heal"})
    kept["identity"] = record.identity.canonical()
    assert kept["prune"].pop("distances") is None
    for unknown in NEWER:
        assert kept["prune"].pop(unknown) is None
    for name, task in kept["quality"].items():
        kept["quality"][name] = {key: task[key] for key in old["quality"][name]}
    assert kept["serving"]["identity"]["settings"].pop("processes") == 1
    assert not _take_neighbours(kept)
    (kept["serving"]["result"],) = kept["serving"].pop("processes")
    assert kept == {key: value for key, value in old.items() if key != "schema_version"}


@pytest.mark.parametrize("version", [6, 7])
def test_record_of_the_sixth_schema_or_later_keeps_all_it_says(version: int) -> None:
    old = json.loads((SAMPLES / f"schema-{version}-pruned.json").read_text())
    record = read_record(SAMPLES / f"schema-{version}-pruned.json")
    assert old.pop("schema_version") == version
    kept = record.model_dump(mode="json", exclude_unset=True, exclude={"schema_version"})
    assert kept == old


@pytest.mark.parametrize("name", ["served", "failed"])
def test_record_of_the_fourth_schema_keeps_all_it_says(name: str) -> None:
    old = json.loads((SAMPLES / f"schema-4-{name}.json").read_text())
    record = read_record(SAMPLES / f"schema-4-{name}.json")
    assert old.pop("schema_version") == 4
    kept = record.model_dump(mode="json", exclude={"schema_version", "groups", "heal"})
    kept["identity"] = record.identity.canonical()
    for unknown in NEWER:
        assert kept["prune"].pop(unknown) is None
    assert all(task.pop("column") for task in kept["quality"].values())
    for task in kept["quality"].values():
        newer = [task.pop(key) for key in ("requests", "files", "sampled_batch", *CHANGES)]
        assert newer == [None, {}, None, None, None, None]
    assert [failure.pop("attempt") for failure in kept["failures"]] == [None] * (name == "failed")
    assert not _take_neighbours(kept)
    assert kept == old


def _take_neighbours(kept: dict[str, Any]) -> list[Any]:
    """What else ran in the timed runs of a record, taken out of it, where it is known."""
    processes = kept["serving"]["processes"] if kept["serving"] else []
    every = [load.pop("neighbours") for process in processes for load in process["workloads"]]
    every += [process.pop("weights") for process in processes]
    return [known for known in every if known is not None]


def test_every_schema_has_a_sample() -> None:
    found = {json.loads(path.read_text())["schema_version"] for path in SAMPLES.glob("*.json")}
    assert found == {*range(1, SCHEMA_VERSION)}


@pytest.mark.parametrize("version", [0, -1, True, 1.0, 9, 99, "5", [5]])
def test_record_of_an_unknown_schema_is_refused(version: object, tmp_path: Path) -> None:
    content = json.loads((SAMPLES / "schema-3-pruned.json").read_text())
    (tmp_path / "x.json").write_text(json.dumps(content | {"schema_version": version}))
    with pytest.raises(InputError, match=r"x\.json: schema_version is .*, and this release reads up to"):
        read_record(tmp_path / "x.json")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 1' + b"0" * 5000 + b"}"],
)
def test_what_is_no_record_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json"):
        read_record(tmp_path / "x.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        gzip.compress(b"no JSON", mtime=0),
        gzip.compress(b"[]", mtime=0),
        gzip.compress(b"{}", mtime=0)[:-9],
    ],
)
def test_damaged_scores_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "samples" / "cell.jsonl.gz"
    write_atomically(path, content)
    with pytest.raises(InputError, match=r"cell\.jsonl\.gz is not a file of scores"):
        Store(tmp_path).read_samples("cell")
