"""The names of tasks are those that lm-eval knows; its ``TaskManager`` is the judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.scoring.lm_eval_names import KINDS
from bench.tasks import index
from bench.tasks.catalog import find_task, is_task
from replaceme.errors import InputError
from replaceme.io import models

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lm_eval_names")]

FILES = {
    "a.yaml": "tag: warm\ntask: hot\ndoc_to_text: x\n",
    "b/quoted.yaml": '"task": "quoted name"\n\'tag\':\n- "warm"\n- cold\n',
    "b/_base.yaml": "tag: cold\ndataset_path: json\n",
    "b/more.yaml": "include: _base.yaml\ntask: included\n",
    "c/named.yaml": "task: base_name\n",
    "c/using.yaml": "include: [named.yaml, ../b/_base.yaml]\n",
    "class.yaml": "task: python_one\nclass: !function code.Mine\n",
    "class_group.yaml": "group: ignored\ntask: python_two\nclass: !function code.Mine\n",
    "code.py": "Mine = object\n",
    "flat.yaml": "task:\n- hot\n- included\ngroup: flat\naggregate_metric_list: {metric: acc}\n",
    "nested.yaml": "group: outer\ngroup_alias: Outer\nnum_fewshot: 2\ntask:\n- flat\n- group: inner\n"
    "  task: [hot, {task: included, num_fewshot: 5}]\n- {task: own_text, doc_to_text: hi}\n",
    "tag_first.yaml": "tag: zz_group\ntask: zz_task\n",
    "zz.yaml": "group: zz_group\ntask: [hot]\n",
    "string.yaml": "group: one_string\ntask: hot\n",
    "hub.yaml": "task: mmlu\ntag: hellaswag\n",
    ".ipynb_checkpoints/a-checkpoint.yaml": "task: hot\n",
    "no.yml": "task: no\n",
    "list.yaml": "- task: no\n",
    "number.yaml": "7\n",
    "empty.yaml": "",
    "nameless.yaml": "dataset_path: json\n",
    "lost.yaml": "include: nowhere.yaml\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def told(manager: TaskManager) -> dict[str, Any]:
    """Kind, file and members of every name that a manager knows."""
    return {
        name: (
            kind := KINDS[entry.kind.name],
            entry.yaml_path,
            sorted(entry.tags) if kind == "tag" else _members(entry.cfg) if kind == "group" else [],
        )
        for name, entry in manager.task_index.items()
    }


def _members(config: Any) -> list[Any]:
    return config["task"] if isinstance(config["task"], list) else []


def ours(found: Mapping[str, index.Definition]) -> dict[str, Any]:
    return {n: (e.kind, e.yaml, list(e.members)) for n, e in found.items()}


def test_names_are_those_of_lm_eval_with_kinds_files_and_members() -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    assert ours(index.read_builtin()) == told(manager)
    assert sorted(index.read_builtin()) == manager.all_tasks
    for kind, names in {"group": manager.all_groups, "tag": manager.all_tags}.items():
        assert [n for n, e in sorted(index.read_builtin().items()) if e.kind == kind] == names


def test_names_in_a_folder_are_those_of_lm_eval(folder: Path) -> None:
    from lm_eval.tasks import TaskManager

    expected = told(TaskManager(include_path=str(folder), include_defaults=False))
    assert ours(index.read_folders((folder,))) == expected
    assert len(expected) == 15


def test_own_names_win_over_those_of_lm_eval(folder: Path) -> None:
    assert find_task("mmlu", [folder]).yaml == folder / "hub.yaml"
    assert find_task("mmlu_anatomy", [folder]).yaml == index.read_builtin()["mmlu_anatomy"].yaml
    assert {"quoted name", "included", "python_one"} <= {
        name for name, found in index.read_folders((folder,)).items() if is_task(found)
    }
    with pytest.raises(InputError, match=r"'base_name' is defined twice .*using\.yaml and by .*named"):
        find_task("base_name", [folder])


def test_names_of_lm_eval_are_asked_for_once(capfd: pytest.CaptureFixture[str]) -> None:
    (kept,) = (models.cache_folder() / "tasks").iterdir()
    index.read_builtin.cache_clear()
    names = index.read_builtin()
    assert not capfd.readouterr().err
    root = index.lm_eval_folder()
    assert root
    text = kept.read_text("utf-8")
    mtime = (root / "tasks" / "mmlu").stat().st_mtime_ns
    assert text.count(str(mtime)) == 1
    kept.write_text(text.replace(str(mtime), str(mtime - 1)))
    index.read_builtin.cache_clear()
    assert index.read_builtin() == names
    assert "Asking lm-eval" in capfd.readouterr().err
    assert kept.read_text("utf-8") == text
