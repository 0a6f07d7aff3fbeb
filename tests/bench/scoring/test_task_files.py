"""What of a task's data is known by content: files and folders, however its YAML names them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.scoring.tasks import PreparedTask
from bench.tasks import catalog, index
from bench.tasks.spec import TaskSpec
from replaceme.errors import InputError

pytestmark = pytest.mark.slow

WAYS: dict[str, dict[str, Any]] = {
    "folder": {"dataset_path": "./data"},
    "folder without a dot": {"dataset_path": "data"},
    "data_dir": {"dataset_path": "json", "dataset_kwargs": {"data_dir": "./data"}},
    "one file": {"dataset_path": "json", "dataset_kwargs": {"data_files": "data/test.jsonl"}},
    "files of a folder": {
        "dataset_path": "data",
        "dataset_kwargs": {"data_files": {"test": ["test.jsonl"]}},
    },
    "files of data_dir": {
        "dataset_path": "json",
        "dataset_kwargs": {"data_dir": "data", "data_files": {"test": "*.jsonl"}},
    },
}


def write_items(folder: Path, answer: int) -> Path:
    """Twenty items that all have the same answer."""
    (folder / "data").mkdir(exist_ok=True)
    item = {"q": "The box is", "c": [" red", " blue"], "a": answer}
    file = folder / "data" / "test.jsonl"
    file.write_text(20 * (json.dumps(item) + "\n"))
    return file


def write_task(folder: Path, **changes: Any) -> Callable[[], catalog.TaskSource]:
    """A task in a folder; returns what finds it as a new run does."""
    (folder / "task.yaml").write_text(
        yaml.safe_dump(
            {
                "task": "boxes",
                "dataset_path": "json",
                "test_split": "train" if isinstance(files_of(changes), str) else "test",
                "output_type": "multiple_choice",
                "doc_to_text": "{{q}}",
                "doc_to_choice": "{{c}}",
                "doc_to_target": "{{a}}",
            }
            | changes
        )
    )

    def find() -> catalog.TaskSource:
        index.read_folders.cache_clear()
        return catalog.find_task("boxes", [folder])

    return find


def files_of(changes: dict[str, Any]) -> Any:
    return changes.get("dataset_kwargs", {}).get("data_files")


def answers(source: catalog.TaskSource) -> set[int]:
    prepared = PreparedTask(TaskSpec(task="boxes"), source, None)
    return {instance.doc["a"] for instance in prepared.instances}


@pytest.mark.parametrize("way", WAYS)
def test_data_are_known_by_content(way: str, tmp_path: Path) -> None:
    """Items that change keep their file's size and time of change, by which ``datasets`` knows them."""
    find = write_task(tmp_path, **WAYS[way])
    file = write_items(tmp_path, 0)
    before, stat = find(), file.stat()
    assert answers(before) == {0}
    write_items(tmp_path, 1)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after = find()
    assert answers(after) == {1}
    assert after.fingerprint != before.fingerprint
    write_items(tmp_path, 0)
    assert find().fingerprint == before.fingerprint


def test_a_file_that_comes_into_a_folder_of_data_counts(tmp_path: Path) -> None:
    find = write_task(tmp_path, dataset_path="./data")
    file = write_items(tmp_path, 0)
    before = find().fingerprint
    (file.parent / ".hidden").write_text("no data")
    assert find().fingerprint == before
    file.with_name("test-2.jsonl").write_bytes(file.read_bytes())
    assert find().fingerprint != before


def test_data_of_another_task_in_the_same_folder_do_not_count(tmp_path: Path) -> None:
    find = write_task(tmp_path, **WAYS["folder"])
    write_items(tmp_path, 0)
    before = find().fingerprint
    (tmp_path / "other.jsonl").write_text("{}")
    assert find().fingerprint == before


def test_data_named_in_an_included_file_and_in_the_task_count(tmp_path: Path) -> None:
    """As lm-eval reads them: one key in each file, both as seen from the task."""
    file = write_items(tmp_path, 0)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "base.yaml").write_text("dataset_kwargs: {data_dir: data}\n")
    find = write_task(tmp_path, include="shared/base.yaml")
    before = find()
    assert answers(before) == {0}
    file.write_bytes(file.read_bytes().replace(b"red", b"tan"))
    assert find().fingerprint != before.fingerprint


def test_files_of_a_data_set_on_the_hub_are_not_looked_for_here(tmp_path: Path) -> None:
    kwargs = {"data_files": {"test": "test.jsonl"}}
    find = write_task(tmp_path, dataset_path="someone/boxes", dataset_kwargs=kwargs)
    assert find().fingerprint


def test_a_folder_that_is_missing_or_holds_pickles_is_refused(tmp_path: Path) -> None:
    find = write_task(tmp_path, dataset_path="./data")
    with pytest.raises(InputError, match=r"dataset_path is './data', and there is no such folder"):
        find()
    write_items(tmp_path, 0).with_suffix(".pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"the data are in 'test.pkl', a pickle"):
        find()
