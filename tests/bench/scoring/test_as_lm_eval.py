"""Tasks that draw at random, and the settings of a prompt: as ``lm_eval``'s own command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.scoring.checkpoint import CheckpointScorer
from bench.scoring.tasks import PreparedTask, TaskScore
from bench.suite.suite import ScoreSpec
from bench.tasks.catalog import find_task
from bench.tasks.spec import SEEDS, Seeds, TaskSpec
from replaceme.errors import InputError

pytestmark = pytest.mark.slow

FUNCTIONS = '''
import random

import numpy as np

OWN = random.Random(7)


def mixed(dataset):
    """Choices in an order that the global generator draws, row by row."""

    def mix(row):
        options = list(row["choices"])
        random.shuffle(options)
        return {"choices": options, "answer": options.index(row["choices"][row["answer"]])}

    return dataset.map(mix)


def drawn(dataset):
    """Rows in an order, and choices, that numpy's generator draws."""

    def draw(row):
        return {"answer": int(np.random.randint(len(row["choices"])))}

    return dataset.shuffle().map(draw)


def own(dataset):
    """Answers that a generator of the module draws, which goes on where the last call left it."""
    return dataset.map(lambda row: {"answer": OWN.randrange(len(row["choices"]))})


def greeting(row):
    """A prompt that the global generator draws when the request is built."""
    return random.choice(["Hello. ", "So: ", "Well, "]) + row["question"]


def luck(row, results):
    """A score that is drawn after the model has answered."""
    return {"acc": random.random()}


def letter(row, results):
    return {"acc": sum(map(ord, results[0]))}
'''
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc"}, {"metric": "brier_score"}],
}
SCORE = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
SAMPLED = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[0]}}",
    "generation_kwargs": {"do_sample": True, "temperature": 2.0, "max_gen_toks": 4, "until": ["\n"]},
    "repeats": 3,
    "filter_list": [
        {
            "name": "maj",
            "filter": [
                {"function": "regex", "regex_pattern": "(.)"},
                {"function": "majority_vote"},
                {"function": "take_first"},
            ],
        }
    ],
    "process_results": "letter",
    "metric_list": SCORE,
}
EXAMPLES = CHOICE | {"fewshot_split": "test", "num_fewshot": 2}
RANDOM: dict[str, dict[str, Any]] = {
    "mixed": CHOICE | {"process_docs": "mixed", "doc_to_text": "{{choices | join(', ')}}? {{question}}"},
    "drawn": CHOICE | {"process_docs": "drawn"},
    "own": CHOICE | {"process_docs": "own"},
    "own_too": CHOICE | {"process_docs": "own"},
    "greeting": CHOICE | {"doc_to_text": "greeting"},
    "luck": CHOICE | {"process_results": "luck", "metric_list": SCORE},
    "sampled": SAMPLED,
    "examples": EXAMPLES,
    "first": EXAMPLES | {"fewshot_config": {"sampler": "first_n"}},
    "none": EXAMPLES | {"num_fewshot": 0},
}
OTHER: Seeds = (5, 6, 7, 8)
COLOURS = ["red", "blue", "green", "white"]


class Loader(yaml.SafeDumper):
    """Writes names of functions as lm-eval reads them."""


class Function(str):
    pass


Loader.add_representer(Function, lambda dumper, name: dumper.represent_scalar("!function", name))


def write(folder: Path, name: str, settings: dict[str, Any]) -> None:
    shared = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "metadata": {"version": 1},
    }
    named = ("process_docs", "doc_to_text", "process_results")
    functions = {
        key: Function(f"functions.{settings[key]}")
        for key in named
        if f"def {settings.get(key)}(" in FUNCTIONS
    }
    (folder / f"{name}.yaml").write_text(yaml.dump(shared | settings | functions, Dumper=Loader))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawing")
    rows = [
        {"question": f"Box {i} is", "answer": i % 4, "choices": COLOURS[i % 4 :] + COLOURS[: i % 4]}
        for i in range(12)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "functions.py").write_text(FUNCTIONS)
    for name, settings in RANDOM.items():
        write(folder, name, settings)
    return folder


@pytest.fixture(scope="module")
def model(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "m", num_hidden_layers=2)


Runs = list[tuple[str, list[str]]]
Results = list[dict[str, Any]]


@pytest.fixture(scope="module")
def lm_eval(model: Path, folder: Path) -> Callable[[Runs], Results]:
    """What ``lm_eval`` says of a task alone with some options, each in a process of its own."""

    def run(runs: Runs) -> Results:
        shared = ["--model", "hf", "--model_args", f"pretrained={model},dtype=float32"]
        shared += ["--include_path", str(folder), "--device", "cpu", "--batch_size", "4"]
        words = [[*shared, "--tasks", task, *options] for task, options in runs]
        program = Path(__file__).with_name("command_line.py")
        done = subprocess.run(
            [sys.executable, program, json.dumps(words)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.fixture(scope="module")
def scorer(model: Path) -> Iterator[CheckpointScorer]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield CheckpointScorer(model, dtype="float32", device="cpu", batch_size=4)
    torch.set_num_threads(threads)


def values(score: TaskScore) -> dict[str, float]:
    return {name.partition(",")[0]: found["value"] for name, found in score.metrics.items()}


def printed(result: dict[str, Any], task: str) -> dict[str, float]:
    """The metrics of a task that ``lm_eval`` wrote down."""
    found = {key.partition(","): value for key, value in result["results"][task].items()}
    return {
        metric: value
        for (metric, comma, _), value in found.items()
        if comma and not metric.endswith("_stderr")
    }


def prepared(folder: Path, name: str, seeds: Seeds = SEEDS, shots: int | None = None) -> PreparedTask:
    return PreparedTask(TaskSpec(task=name, num_fewshot=shots), find_task(name, [folder]), None, seeds)


def test_tasks_that_draw_at_random_score_as_lm_eval_alone(
    folder: Path, lm_eval: Callable[[Runs], Results], scorer: CheckpointScorer
) -> None:
    """Whatever was built before, scored before, and left in the cache of data sets."""
    others = ["mixed", "drawn", "sampled", "examples"]
    runs: Runs = [(name, []) for name in RANDOM]
    runs += [(name, ["--seed", ",".join(map(str, OTHER))]) for name in others]
    runs += [("none", ["--num_fewshot", "3"]), ("first", ["--num_fewshot", "3"])]
    results = lm_eval(runs)
    cases = [*((name, SEEDS) for name in RANDOM), *((name, OTHER) for name in others)]
    wanted = {case: printed(result, case[0]) for case, result in zip(cases, results, strict=False)}
    for name in others:
        assert wanted[name, SEEDS] != wanted[name, OTHER], f"{name} draws nothing"
    tasks = {(name, seeds): prepared(folder, name, seeds) for name, seeds in reversed(cases)}
    for _ in range(2):
        for case in cases:
            assert values(scorer.score(tasks[case])) == wanted[case], case
    for (name, _), result in zip(runs[-2:], results[-2:], strict=True):
        found = scorer.score(prepared(folder, name, shots=3))
        assert found.num_fewshot == result["n-shot"][name] == (0 if name == "none" else 3)
        assert values(found) == printed(result, name)


# ---- chat templates

TURNS = (
    "{% for m in messages %}<|begin|>{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant:{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m['role'] }} says {{ m['content'] }}. {% endfor %}"
CHATS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "template": ({"apply_chat_template": True}, ["--apply_chat_template"]),
    "instruction": (
        {"apply_chat_template": True, "system_instruction": "Answer with a colour."},
        ["--apply_chat_template", "--system_instruction", "Answer with a colour."],
    ),
    "one turn": (
        {"apply_chat_template": True, "fewshot_as_multiturn": False},
        ["--apply_chat_template", "--fewshot_as_multiturn", "false"],
    ),
    "instruction alone": (
        {"system_instruction": "Answer with a colour."},
        ["--system_instruction", "Answer with a colour."],
    ),
    "name": ({"apply_chat_template": "default"}, ["--apply_chat_template", "default"]),
    "other name": ({"apply_chat_template": "plain"}, ["--apply_chat_template", "plain"]),
}


def asked(name: str, **prompt: Any) -> TaskSpec:
    score = ScoreSpec.model_validate({"tasks": [name], **prompt})
    return score.asked(score.tasks[0])


@pytest.fixture(scope="module")
def named_templates(model: Path) -> None:
    """Gives the model two chat templates."""
    (model / "chat_template.jinja").write_text(TURNS)
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "plain.jinja").write_text(PLAIN)


@pytest.mark.usefixtures("named_templates")
def test_chat_templates_score_as_in_lm_eval(
    folder: Path, lm_eval: Callable[[Runs], Results], model: Path
) -> None:
    results = lm_eval([("examples", options) for _, options in CHATS.values()])
    scorer = CheckpointScorer(model, dtype="float32", device="cpu", batch_size=4)
    ours = {}
    for case, (prompt, _) in CHATS.items():
        spec, source = asked("examples", **prompt), find_task("examples", [folder])
        ours[case] = values(scorer.score(PreparedTask(spec, source, None, model=scorer.lm)))
    assert ours == {
        case: printed(result, "examples") for case, result in zip(CHATS, results, strict=True)
    }
    assert ours["other name"] == ours["name"], "lm_eval renders the name now: say so no longer"
    assert len({str(ours[case]) for case in ("template", "instruction", "one turn")}) == 3


@pytest.mark.usefixtures("named_templates")
@pytest.mark.parametrize(
    ("known", "wanted", "words"),
    [
        (None, True, "has no chat template"),
        (TURNS, "plain", "has one chat template, and none named 'plain'"),
        ({"default": TURNS}, "tools", "no chat template named 'tools'; it has default"),
        ({"tools": TURNS}, True, "no chat template named 'default'; it has tools"),
    ],
)
def test_chat_template_that_a_tokenizer_has_not_is_refused(
    folder: Path,
    scorer: CheckpointScorer,
    monkeypatch: pytest.MonkeyPatch,
    known: Any,
    wanted: bool | str,
    words: str,
) -> None:
    monkeypatch.setattr(scorer.lm.tokenizer, "chat_template", known)
    spec = asked("first", apply_chat_template=wanted)
    with pytest.raises(InputError, match=words):
        PreparedTask(spec, find_task("first", [folder]), None, model=scorer.lm)


def test_prompt_is_refined_task_by_task() -> None:
    tasks = [{"task": "a", "apply_chat_template": False}, {"task": "b", "system_instruction": "B"}, "c"]
    score = ScoreSpec.model_validate({"tasks": tasks, "apply_chat_template": True})
    found = [score.asked(task) for task in score.tasks]
    assert [task.apply_chat_template for task in found] == [False, True, True]
    assert [task.fewshot_as_multiturn for task in found] == [False, True, True]
    assert [task.system_instruction for task in found] == [None, "B", None]
    with pytest.raises(ValueError, match="'a' needs apply_chat_template"):
        ScoreSpec.model_validate({"tasks": ["a"], "fewshot_as_multiturn": True})
