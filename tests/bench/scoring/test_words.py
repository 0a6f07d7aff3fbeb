"""What is wrong with a task, told in a sentence; each situation is from a public bug report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.scoring.tasks import PreparedTask
from bench.scoring.words import in_words
from bench.tasks.catalog import find_task
from bench.tasks.spec import TaskSpec
from replaceme.errors import InputError, told

ROWS = [{"q": f"Box {i} holds", "c": ["red", "blue"], "a": i % 2} for i in range(4)]
CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_choice": "c",
    "doc_to_target": "a",
    "metric_list": [{"metric": "acc"}],
}
WRONG: dict[str, tuple[dict[str, Any], list[Any], str]] = {
    "empty": ({}, [], "fails at loading its data: there are no items"),
    "split": ({"test_split": "validation"}, ROWS, "there is no 'validation'"),
    "shots": ({"num_fewshot": 9, "fewshot_split": "test"}, ROWS, "fewer examples than num_fewshot"),
    "null": ({}, [ROWS[0], ROWS[1], ROWS[2] | {"c": None}], "fails at making the requests, item 2"),
    "template": ({"doc_to_text": "{{q"}, ROWS, "fails at doc_to_text: unexpected end of template"),
    "column": ({"doc_to_text": "{{no.x}}"}, ROWS, "fails at doc_to_text: 'no' is undefined"),
    "choices": ({"doc_to_choice": "nowhere"}, ROWS, "fails at doc_to_choice: malformed"),
    "numbers": ({"doc_to_choice": [1, 2]}, ROWS, "gives 1, which is no text; write choices in quotes"),
    "no choices": ({}, [ROWS[0] | {"c": []}], "first item: doc_to_choice gives no choices."),
    "empty choice": ({}, [ROWS[0] | {"c": ["a", ""]}], "doc_to_choice gives an empty text as a choice."),
    "unsafe": ({"unsafe_code": True}, ROWS, "code that the model writes; confirm_run_unsafe_code: true"),
    "metric": ({"metric_list": [{"metric": "nosuch"}]}, ROWS, "a metric has no aggregation; name one"),
    "filter": (
        {"filter_list": [{"name": "x", "filter": [{"function": "nosuch"}]}]},
        ROWS,
        "KeyError: Unknown filter 'nosuch'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_task_that_cannot_be_built_says_where_and_why(tmp_path: Path, name: str) -> None:
    changes, rows, said = WRONG[name]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = {
        "task": f"wrong_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task | CHOICES | changes))
    found = find_task(f"wrong_{name}", [tmp_path])
    with pytest.raises(InputError) as raised:
        PreparedTask(TaskSpec(task=f"wrong_{name}"), found, None)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_task_whose_code_needs_a_package_names_it(tmp_path: Path) -> None:
    (tmp_path / "needing.py").write_text("import no_such_package.inside\ndef first(doc): return 'x'\n")
    (tmp_path / "task.yaml").write_text(
        "task: needing\ndataset_path: json\ndataset_kwargs: {data_files: rows.jsonl}\n"
        "test_split: train\ndoc_to_text: !function needing.first\ndoc_to_target: a\n"
    )
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(InputError, match=r"needs the Python package 'no_such_package', which is not"):
        PreparedTask(TaskSpec(task="needing"), find_task("needing", [tmp_path]), None)


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_tasks_of_lm_eval_that_run_code_say_what_allows_it(name: str) -> None:
    with pytest.raises(InputError, match=r"confirm_run_unsafe_code: true in 'score'"):
        PreparedTask(TaskSpec(task=name), find_task(name, []), None)


def test_code_of_models_is_run_where_that_is_confirmed(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    task = {"task": "unsafe", "unsafe_code": True, "dataset_path": "json", "doc_to_text": "{{q}}"}
    task |= {"dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}, "test_split": "test"}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task | CHOICES))
    found = find_task("unsafe", [tmp_path])
    assert PreparedTask(TaskSpec(task="unsafe"), found, None, unsafe_code=True).instances


@pytest.mark.parametrize(("limit", "items"), [(0.1, 1), (0.3, 2), (0.5, 2), (0.75, 3), (3, 3), (9, 4)])
def test_a_share_of_the_items_is_rounded_up_as_lm_eval_does(
    tmp_path: Path, limit: float, items: int
) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    task = {"task": "four", "dataset_path": "json", "test_split": "test", "doc_to_text": "{{q}}"}
    task |= {"dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task | CHOICES))
    built = PreparedTask(TaskSpec(task="four"), find_task("four", [tmp_path]), limit)
    assert len({instance.doc_id for instance in built.instances}) == items


def test_what_is_not_the_tasks_fault_is_left_alone() -> None:
    with pytest.raises(KeyError), in_words():
        raise KeyError("ours")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("metadata"), "KeyError: metadata"),
        (StopIteration(), "StopIteration"),
        (OSError("a\n  b"), "a b"),
        (ValueError(), "ValueError"),
        (IndexError("out of range"), "IndexError: out of range"),
    ],
)
def test_an_error_is_told_in_a_line_with_its_kind_where_that_helps(error: Exception, said: str) -> None:
    assert told(error) == said
