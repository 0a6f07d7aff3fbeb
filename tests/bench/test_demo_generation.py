"""The demo's generation tasks, asked by lm-eval: what is right, and what rules get that do not read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.scoring.tasks import PreparedTask
from bench.tasks.catalog import find_task
from bench.tasks.spec import TaskSpec

FOLDER = Path(__file__).resolve().parents[2] / "suites" / "demo"
TASKS = ("profiles", "sums")
LUCK = 0.07  # a constant sum is right in one of 15

Item = dict[str, Any]
Rule = Callable[[str, Item], str]


def items_of(task: str) -> list[Item]:
    return [json.loads(line) for line in (FOLDER / f"{task}.jsonl").read_text("utf-8").splitlines()]


def examples_of(task: str) -> list[Item]:
    """The few-shot examples."""
    content = yaml.safe_load((FOLDER / f"{task}.yaml").read_text("utf-8"))
    examples: list[Item] = content["fewshot_config"]["samples"]
    assert len(examples) == content["num_fewshot"]
    return examples


@pytest.fixture(scope="module")
def prepared() -> dict[str, PreparedTask]:
    return {
        task: PreparedTask(TaskSpec(task=f"demo_{task}"), find_task(f"demo_{task}", [FOLDER]), None)
        for task in TASKS
    }


@pytest.fixture(scope="module")
def shares(prepared: dict[str, PreparedTask]) -> Callable[[str, Rule], tuple[float, float]]:
    """Strict and flexible match, as lm-eval finds them, of what a rule makes of prompt and item."""
    from lm_eval.api.model import LM

    class Ruled(LM):
        def __init__(self, rule: Rule) -> None:
            super().__init__()
            self.rule = rule

        def generate_until(self, requests: Any) -> list[str]:
            return [self.rule(request.args[0], request.doc).split("\n")[0] for request in requests]

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: Any) -> Any:
            raise NotImplementedError

    def shares(task: str, rule: Rule) -> tuple[float, float]:
        score = prepared[task].score(Ruled(rule), bootstraps=0)
        assert score.primary == "exact_match,strict-match"
        strict, flexible = (score.metrics[key]["value"] for key in score.metrics)
        return strict, flexible

    return shares


Shares = Callable[[str, Rule], tuple[float, float]]


@pytest.mark.parametrize("task", TASKS)
def test_right_answer_is_right_in_both_ways(task: str, shares: Shares) -> None:
    assert shares(task, lambda _, item: f" {item['target']}") == (1, 1)


@pytest.mark.parametrize("task", TASKS)
def test_no_answer_is_wrong_in_both_ways(task: str, shares: Shares) -> None:
    assert shares(task, lambda *_: "") == (0, 0)


def test_right_answer_in_another_form_is_right_in_the_flexible_way_alone(shares: Shares) -> None:
    assert shares("sums", lambda _, item: item["target"].partition(".")[0]) == (0, 1)
    assert shares("profiles", lambda _, item: f" {item['target']} {item['target']}") == (0, 1)


@pytest.mark.parametrize("task", TASKS)
def test_answer_of_an_example_is_seldom_right(task: str, shares: Shares) -> None:
    for example in examples_of(task):
        assert max(shares(task, lambda *_, text=example["target"]: f" {text}")) <= LUCK


@pytest.mark.parametrize("task", TASKS)
def test_no_constant_answer_is_often_right(task: str) -> None:
    answers = [item.get("answer") or item["target"] for item in items_of(task)]
    assert max(map(answers.count, set(answers))) <= LUCK * len(answers)


def test_fields_in_the_order_told_are_seldom_right(shares: Shares) -> None:
    def fill(_: str, item: Item) -> str:
        name, job, town, pet = (field.split(": ")[1] for field in item["prompt"].split("; "))
        return f" {name} is a {job} from {town} and has a {pet}."

    assert max(shares("profiles", fill)) <= LUCK


def test_no_number_of_a_problem_is_its_answer(shares: Shares) -> None:
    for place in (0, 2):
        assert shares("sums", lambda _, item, place=place: item["target"].split()[place]) == (0, 0)


@pytest.mark.parametrize("task", TASKS)
def test_items_share_neither_answer_nor_value_with_an_example(task: str) -> None:
    examples, items = examples_of(task), items_of(task)
    assert not {example["target"] for example in examples} & {item["target"] for item in items}
    assert not {example["prompt"] for example in examples} & {item["prompt"] for item in items}
    if task == "profiles":
        values = [
            {field.split(": ")[1] for item in part for field in item["prompt"].split("; ")}
            for part in (examples, items)
        ]
        assert not values[0] & values[1]


@pytest.mark.parametrize("task", TASKS)
def test_prompt_has_the_examples_then_the_item(task: str, prepared: dict[str, PreparedTask]) -> None:
    examples, items = examples_of(task), items_of(task)
    assert prepared[task].num_fewshot == len(examples)
    for instance, item in zip(prepared[task].instances, items, strict=True):
        prompt, settings = instance.args
        *shown, asked = prompt.split("\n\n")
        assert all(text.endswith(e["target"]) for text, e in zip(shown, examples, strict=True))
        assert item["prompt"] in asked
        assert item["target"] not in asked
        assert (settings["until"], settings["max_gen_toks"]) == (["\n"], 32)
