"""Flips and divergence against two ordinary models of transformers, on items of the demo's tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from bench.changes import CHOSEN, count_flips
from bench.scoring.answers import Answers
from bench.scoring.one_pass import OnePass
from bench.scoring.tasks import PreparedTask, TaskScore
from bench.tasks.catalog import find_task
from bench.tasks.spec import TaskSpec
from replaceme.edit import Edit
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint

pytestmark = pytest.mark.slow

EDITS = {
    "baseline": Edit(),
    "removal": Edit((Block(1, 2),)),
    "transform": Edit((Block(1, 3),), {0: torch.eye(64, dtype=torch.float64) * 1.5}),
}
FOLDER = Path(__file__).parents[3] / "suites" / "demo"
DEMO = ("demo_facts", "demo_grammar", "demo_causes")
ITEMS = 12


@pytest.fixture(scope="module")
def own_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A last word, a whole text, and choices that are also asked for without their context."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {"text": f"Box {i} is", "word": ["red", "blue sky", "green"][i % 3], "answer": i % 2}
        for i in range(8)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{text}}",
    }
    kinds: dict[str, dict[str, Any]] = {
        "last_word": {
            "output_type": "loglikelihood",
            "doc_to_target": "{{' ' + word}}",
            "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
        },
        "whole_text": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "byte_perplexity"}],
        },
        "informed": {
            "output_type": "multiple_choice",
            "doc_to_choice": ["red", "a long blue", "é"],
            "doc_to_target": "answer",
            "metric_list": [
                {"metric": name} for name in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
            ],
        },
    }
    for name, settings in kinds.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name} | shared | settings))
    return folder


class Both:
    """Scores of all variants in one pass, and their checkpoints as transformers loads them."""

    def __init__(self, source: Path, folder: Path, tasks: list[PreparedTask]) -> None:
        self.scorer = OnePass(
            source,
            EDITS,
            saved_in=None,
            dtype="float32",
            device="cpu",
            batch_size=8,
            answers=Answers(),
        )
        self.tasks = {task.spec.task: task for task in tasks}
        self.models = {}
        for name, edit in EDITS.items():
            write_checkpoint(source, folder / name, edit, None)
            self.models[name] = AutoModelForCausalLM.from_pretrained(folder / name).eval()
        self.scores: dict[tuple[str, str], TaskScore] = {}
        for task in tasks:
            self.scorer.answer(task, [*EDITS])
            for name in EDITS:
                self.scores[name, task.spec.task] = self.scorer.score(task, name)

    @torch.no_grad()
    def logs(self, variant: str, request: Any) -> torch.Tensor:
        """Log-probabilities where targets are predicted, [targets, vocabulary] float64."""
        logits = self.models[variant](torch.tensor([request.tokens]), use_cache=False).logits[0]
        return logits[-len(request.targets) :].double().log_softmax(-1)


@pytest.fixture(scope="module")
def both(
    save_model: Callable[..., Path], own_tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> Both:
    folder = tmp_path_factory.mktemp("models")
    source = save_model(folder / "source", num_hidden_layers=4)
    places = dict.fromkeys((*DEMO, "demo_lastword"), FOLDER)
    places |= dict.fromkeys(("last_word", "whole_text", "informed"), own_tasks)
    tasks = [
        PreparedTask(TaskSpec(task=name), find_task(name, [place]), ITEMS)
        for name, place in places.items()
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreparedTask.score, "__defaults__", (0,))
        return Both(source, folder, tasks)


@pytest.mark.parametrize("variant", EDITS)
def test_divergence_is_that_of_two_models_over_every_predicted_token(both: Both, variant: str) -> None:
    for name, task in both.tasks.items():
        values: list[float] = []
        for request in both.scorer.lm.requests(task.instances):
            intact, own = both.logs("baseline", request), both.logs(variant, request)
            values += (intact.exp() * (intact - own)).sum(-1).tolist()
        found = both.scores[variant, name].divergence
        assert found
        assert found.positions == len(values)
        assert found.mean == pytest.approx(np.mean(values), abs=1e-5)
        assert found.p99 == pytest.approx(np.quantile(values, 0.99), abs=1e-5)
        assert (found.mean or 0) > 1e-3 or variant == "baseline"


def choose(both: Both, variant: str, task: PreparedTask, metric: str) -> dict[int, int]:
    """The answer to each item by a checkpoint that transformers runs, a request at a time."""
    found: dict[int, list[tuple[float, bool, str]]] = {}
    for instance in task.instances:
        (request,) = both.scorer.lm.requests([instance])
        logs, goals = both.logs(variant, request), torch.tensor(request.targets)
        total = float(logs.gather(1, goals[:, None]).sum())
        greedy = bool((logs.argmax(-1) == goals).all())
        found.setdefault(instance.doc_id, []).append((total, greedy, instance.arguments[1]))
    return {doc: best(answers, metric) for doc, answers in found.items()}


def best(answers: list[tuple[float, bool, str]], metric: str) -> int:
    if len(answers) == 1:
        return int(answers[0][1])
    values = [total for total, _, _ in answers]
    texts = [text.removeprefix(" ") for _, _, text in answers]
    if metric == "acc_norm":
        values = [v / len(text) for v, text in zip(values, texts, strict=True)]
    elif metric == "acc_bytes":
        values = [v / len(text.encode()) for v, text in zip(values, texts, strict=True)]
    elif metric == "acc_mutual_info":
        half = len(values) // 2
        values = [a - b for a, b in zip(values[:half], values[half:], strict=True)]
    return int(np.argmax(values[: len(set(texts))]))


def test_flips_are_those_of_two_models(both: Both) -> None:
    seen = set()
    for name, task in both.tasks.items():
        for metric in both.scores["baseline", name].metrics:
            columns = {v: both.scores[v, name].samples for v in EDITS}
            if name == "whole_text":
                assert count_flips(columns["baseline"], columns["removal"], metric) is None
                continue
            intact = choose(both, "baseline", task, metric)
            for variant in EDITS:
                own = choose(both, variant, task, metric)
                assert columns[variant][CHOSEN + metric] == [own[doc] for doc in sorted(own)]
                found = count_flips(columns["baseline"], columns[variant], metric)
                assert found
                assert found.items == len(intact)
                assert found.changed == sum(intact[doc] != own[doc] for doc in intact)
                seen.add((metric, found.changed > 0))
    assert {("acc", True), ("acc_norm", True), ("acc_bytes", True), ("acc_mutual_info", True)} <= seen


def test_chosen_answers_are_right_where_the_metric_says_so(both: Both) -> None:
    """lm-eval's own judgement of the answer: 1 where it is the gold one."""
    for (variant, name), score in both.scores.items():
        if name not in DEMO:
            continue
        gold = {instance.doc_id: instance.doc["gold"] for instance in both.tasks[name].instances}
        for metric in score.metrics:
            chosen = score.samples[CHOSEN + metric]
            right = [float(gold[d] == c) for d, c in zip(sorted(gold), chosen, strict=True)]
            assert score.samples[metric] == right, (variant, name, metric)
