"""Presets on lm-eval's own task files, with rows of ours: prompts, filters and metrics are theirs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.scoring.tasks import PreparedTask, TaskScore
from bench.suite import matrix, suite
from bench.tasks.catalog import builtin_tasks, find_task
from bench.tasks.presets import PRESETS, replace_presets
from bench.tasks.spec import TaskSpec

Call = Callable[..., Any]
Refused = Callable[..., None]
WriteSuite = Callable[..., Path]

SUMS = [{"question": f"How much is {i} and 3?", "answer": f"Added.\n#### {i + 3}"} for i in range(12)]
ORDERS = [
    {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {"instruction_id_list": ["change_case:english_lowercase"], "kwargs": [{}]},
    {
        "instruction_id_list": ["punctuation:no_comma", "startend:end_checker"],
        "kwargs": [{}, {"end_phrase": "That is all."}],
    },
]


def answering(answers: list[str]) -> Any:
    from lm_eval.api.model import LM

    class Fixed(LM):
        def loglikelihood(self, requests: Any) -> Any:
            raise AssertionError(f"{len(requests)} choices are asked")

        loglikelihood_rolling = loglikelihood

        def generate_until(self, requests: Any) -> Any:
            self.prompts = [request.arguments[0] for request in requests]
            return answers

    return Fixed()


def score(name: str, rows: list[dict[str, Any]], folder: Path, model: Any) -> TaskScore:
    """Score the preset's entry on a copy of lm-eval's task that reads these rows."""
    yaml_path = builtin_tasks()[name]
    shutil.copytree(yaml_path.parent, folder, dirs_exist_ok=True)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = (folder / yaml_path.name).read_text()
    kept = [line for line in text.splitlines() if not line.startswith(("dataset_", "task:"))]
    data = {"dataset_path": "json", "task": "own"}
    splits = yaml.safe_load("\n".join(line for line in kept if "_split:" in line))
    files = dict.fromkeys(splits.values(), "rows.jsonl")
    data["dataset_kwargs"] = {"data_files": files}  # type: ignore[assignment]
    (folder / yaml_path.name).write_text("\n".join(kept) + "\n" + yaml.safe_dump(data))
    entry = next(entry for entry in PRESETS["generative"] if entry["task"] == name)
    spec = TaskSpec.model_validate(entry | {"task": "own"})
    return PreparedTask(spec, find_task("own", [folder]), None).score(model, bootstraps=0)


def test_gsm8k_counts_answers_in_the_strict_form_after_eight_examples(tmp_path: Path) -> None:
    answers = [f" So.\n#### {i + 3}" for i in range(6)] + [f" it is {i + 3}" for i in range(6, 10)]
    model = answering([*answers, " #### 0", " no idea"])
    found = score("gsm8k", SUMS, tmp_path, model)
    assert found.primary == "exact_match,strict-match"
    assert found.metrics[found.primary]["value"] == pytest.approx(6 / 12)
    assert found.metrics["exact_match,flexible-extract"]["value"] == pytest.approx(10 / 12)
    assert {prompt.count("Question:") for prompt in model.prompts} == {9}


def test_ifeval_counts_prompts_all_of_whose_instructions_are_followed(tmp_path: Path) -> None:
    pytest.importorskip("langdetect", reason="lm_eval[ifeval] is not installed")
    rows = [{"key": i, "prompt": f"Say {i}."} | order for i, order in enumerate(ORDERS)]
    model = answering(["no comma here", "All Capitals", "one, two. That is all."])
    found = score("ifeval", rows, tmp_path, model)
    assert found.primary == "prompt_level_strict_acc"
    assert found.metrics["prompt_level_strict_acc"]["value"] == pytest.approx(1 / 3)
    assert found.metrics["inst_level_strict_acc"]["value"] == pytest.approx(2 / 4)


def test_what_a_suite_says_of_a_preset_is_said_of_each_of_its_tasks(write_suite: WriteSuite) -> None:
    said = ["paper", {"task": "generative", "apply_chat_template": True, "num_fewshot": 0}]
    tasks = suite.load(write_suite(score={"tasks": said})).score.tasks  # type: ignore[union-attr]
    names = [entry["task"] for preset in ("paper", "generative") for entry in PRESETS[preset]]
    assert [task.task for task in tasks] == names
    texts = [task for task in tasks if task.apply_chat_template]
    assert [(task.task, task.num_fewshot, task.average) for task in texts] == [
        ("gsm8k", 0, False),
        ("ifeval", 0, False),
        ("humaneval", 0, False),
    ]
    assert replace_presets(["paper"]) == PRESETS["paper"]


def test_a_task_that_runs_code_is_left_out_with_the_reason_until_it_is_allowed(
    write_suite: WriteSuite, call: Call
) -> None:
    path = write_suite(score={"tasks": ["generative"]})
    plan = matrix.expand(suite.load(path))
    assert [task.name for task in plan.tasks] == ["gsm8k", "ifeval"]
    (note,) = plan.notes
    assert note.startswith("humaneval is not scored: the task runs code that the model writes;")
    assert note in call("plan", path).stdout
    path = write_suite(score={"tasks": ["generative"], "confirm_run_unsafe_code": True})
    plan = matrix.expand(suite.load(path))
    assert [task.name for task in plan.tasks] == ["gsm8k", "ifeval", "humaneval"]
    assert plan.notes == []


def test_a_suite_whose_only_task_runs_code_is_refused(
    write_suite: WriteSuite, call: Call, refused: Refused
) -> None:
    path = write_suite(score={"tasks": ["humaneval"]})
    refused(call("run", path), "score.tasks: nothing is left to score. humaneval is not scored: ")
