"""One pass against lm-eval's own model class on the checkpoints, and the score stage of a run."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from bench.records import Task
from bench.scoring.answers import Answers
from bench.scoring.one_pass import OnePass
from bench.scoring.tasks import PreparedTask, TaskScore
from bench.store import Store
from bench.tasks.catalog import find_task
from bench.tasks.spec import TaskSpec
from replaceme.edit import Edit
from replaceme.errors import InputError
from replaceme.io.loading import load
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint
from tests.bench.test_run import stable
from tests.families import FAMILIES, measured, small

pytestmark = pytest.mark.slow

LENGTH = 96  # positions of the models
BLOCK = Block(2, 4)
SIZES = {"num_hidden_layers": 5, "max_position_embeddings": LENGTH}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2},
    "gpt2": {},
    "gpt_neox": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
}
CASES = [(model, *[dtype] * 3) for model in MODELS for dtype in ("float32", "bfloat16")]
CASES.append(("llama", "float32", "bfloat16", "float32"))  # dtype intact, saved in, computed in
SPREADS = 4
TOLERANCE, RELATIVE = 1e-4, 1e-5
WORDS = ["red", "blue", "a shade of green", "white as snow", "black", "the colour of an old brown hat"]
Call = Callable[..., subprocess.CompletedProcess[str]]


# ---- tasks


def items() -> list[dict[str, Any]]:
    """With two to five choices of one or several tokens."""
    return [
        {
            "question": f"{'There is a box. ' * (i % 3)}Box {i} is {WORDS[i % 6]}. Its colour is",
            "choices": [WORDS[(i + j) % 6] for j in range(2 + i % 4)],
            "answer": i % 2,
        }
        for i in range(10)
    ]


CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}
TASKS: dict[str, dict[str, Any]] = {
    "several": CHOICE,
    "shots": CHOICE | {"fewshot_split": "test", "num_fewshot": 5, "doc_to_text": "{{choices[0]}}:"},
    "bare": CHOICE | {"doc_to_text": "", "doc_to_choice": "{{[choices[0] ~ ' x', choices[1]]}}"},
    "merging": CHOICE
    | {"doc_to_text": "{{question}} th", "target_delimiter": ""}
    | {"doc_to_choice": "{{['ey say', 'e ' ~ choices[0]]}}"},
    "overlong": CHOICE | {"doc_to_text": "{{question * 9}}"},
    "endings": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{' ' + choices[0]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question * (1 + 4 * answer)}}",
        "metric_list": [
            {"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")
        ],
    },
}
SPEAK = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[0]}}",
    "generation_kwargs": {"max_gen_toks": 3, "until": ["."]},
    "metric_list": [{"metric": "exact_match"}],
}
ACCURACIES = ("acc", "acc_norm")


def write_task(folder: Path, name: str, settings: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    shared = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{folder / name}.jsonl"}},
        "test_split": "test",
        "metadata": {"version": 1.0},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(shared | settings))
    return folder


def prepared(folder: Path, name: str) -> PreparedTask:
    return PreparedTask(TaskSpec(task=name), find_task(name, [folder]), None)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """On one core, without the resampling for errors of means that are none."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreparedTask.score, "__defaults__", (0,))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-pass-tasks")
    for name, settings in TASKS.items():
        write_task(folder, name, settings, items())
    return write_task(folder, "speak", SPEAK, items()[:2])


@pytest.fixture(scope="module")
def tasks(folder: Path) -> dict[str, PreparedTask]:
    return {name: prepared(folder, name) for name in TASKS}


# ---- both ways


@dataclass(frozen=True)
class Way:
    """Answers to the instances of a task, in their order, and its score."""

    answers: list[Any]
    score: TaskScore

    @property
    def loglikelihoods(self) -> list[float]:
        return [answer[0] if isinstance(answer, tuple) else answer for answer in self.answers]

    @property
    def greedy(self) -> list[bool]:
        return [answer[1] for answer in self.answers if isinstance(answer, tuple)]


def way(task: PreparedTask, score: Callable[..., TaskScore], *arguments: Any) -> Way:
    found = score(*arguments)
    return Way([instance.resps[0] for instance in task.instances], found)


@dataclass(frozen=True)
class Both:
    """A task on a variant in one pass and by lm-eval, with batches of 16 requests and of 1."""

    task: PreparedTask
    dtype: str
    ours: Way
    theirs: Way
    alone: Way

    @property
    def allowed(self) -> list[float]:
        """By how much each log-likelihood may differ.

        In bfloat16 by what lm-eval's own answers differ by, and one step of the value itself, to which
        the sum of its tokens is rounded last; in float32 too the steps of a sum of hundreds count.
        """
        values = self.theirs.loglikelihoods
        if self.dtype == "float32":
            return [TOLERANCE + 2 * step(value, 24) for value in values]
        pairs = zip(values, self.alone.loglikelihoods, strict=True)
        spread = max(abs(a - b) for a, b in pairs)
        return [SPREADS * spread + step(value, 8) for value in values]

    def answers_of(self, item: int) -> list[int]:
        """Numbers of the answers to an item."""
        return [n for n, instance in enumerate(self.task.instances) if instance.doc_id == item]


def step(value: float, bits: int) -> float:
    """Between a number and the next with so many significant bits."""
    return 2.0 ** (math.floor(math.log2(abs(value) or 1)) + 1 - bits)


def edits_of(model: Any) -> dict[str, Edit]:
    kind = measured(model).kinds[0]
    generator = torch.Generator().manual_seed(1)

    def near(values: Tensor) -> Tensor:
        return values + 0.05 * torch.randn(values.shape, generator=generator, dtype=values.dtype)

    paths = [kind.mixer or "self_attn.o_proj", *([kind.projection] if kind.projection else [])]
    weights = {
        (layer, f"{path}.weight"): near(
            measured(model).decoder_layers(model)[layer].get_submodule(path).weight.data.float()
        )
        for layer in (1, 4)
        for path in paths
    }
    return {
        "baseline": Edit(),
        "removal": Edit((BLOCK,)),
        "transform": Edit((BLOCK,), {1: near(torch.eye(64, dtype=torch.float64))}),
        "weights": Edit((BLOCK,), weights=weights),
    }


def greedy_items(model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Contexts with the word that the model finds likeliest, where it is a token there."""
    found = []
    for item in items():
        for context in (item["question"], f"{item['question']} {item['choices'][0]}, and"):
            ids = tokenizer.encode(context)
            with torch.no_grad():
                best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            word = tokenizer.decode([best])
            if tokenizer.encode(context + word) == [*ids, best]:
                found.append({"question": context, "choices": [word]})
    return found


def one_pass(source: Path, edits: dict[str, Edit], saved_in: str, dtype: str) -> OnePass:
    answers = Answers()
    answers.budget = 200
    return OnePass(
        source,
        edits,
        saved_in=saved_in,
        dtype=dtype,
        device="cpu",
        batch_size=16,
        answers=answers,
    )


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def both(
    request: pytest.FixtureRequest,
    save_model: Callable[..., Path],
    tasks: dict[str, PreparedTask],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, str], Both]:
    """(variant, task) → both ways."""
    name, intact, saved_in, dtype = request.param
    folder = tmp_path_factory.mktemp("both")
    source = save_model(folder / "intact", name, intact, **SIZES | MODELS[name])
    model, tokenizer = load(source, dtype)
    likely = write_task(
        folder,
        "likeliest",
        TASKS["endings"] | {"doc_to_target": "{{choices[0]}}"} | {"target_delimiter": ""},
        greedy_items(model, tokenizer),
    )
    every = tasks | {"likeliest": prepared(likely, "likeliest")}
    scorer = one_pass(source, edits := edits_of(model), saved_in, dtype)
    assert scorer.obstacle is None
    for task in every.values():
        scorer.answer(task, [*edits])
    found = {}
    for variant, edit in edits.items():
        write_checkpoint(source, folder / variant, edit, None, dtype=saved_in)
        lm = HFLM(pretrained=str(folder / variant), dtype=dtype, device="cpu", batch_size=16)
        for key, task in every.items():
            ours = way(task, scorer.score, task, variant)
            lm.batch_size_per_gpu = 16
            theirs = way(task, task.score, lm)
            lm.batch_size_per_gpu = 1
            alone = way(task, task.score, lm) if dtype != "float32" else theirs
            found[variant, key] = Both(task, dtype, ours, theirs, alone)
    return found


Cases = dict[tuple[str, str], Both]


def test_loglikelihoods_are_those_of_lm_eval_on_the_checkpoint(both: Cases) -> None:
    for (variant, task), case in both.items():
        pairs = zip(case.ours.loglikelihoods, case.theirs.loglikelihoods, case.allowed, strict=True)
        for number, (ours, theirs, allowed) in enumerate(pairs):
            assert abs(ours - theirs) <= allowed, (variant, task, number, ours, theirs)


def test_greedy_flags_are_those_of_lm_eval_on_the_checkpoint(both: Cases) -> None:
    """In bfloat16 but where lm-eval disagrees with itself."""
    seen = set()
    for case in both.values():
        flags = zip(case.ours.greedy, case.theirs.greedy, case.alone.greedy, strict=True)
        for ours, theirs, alone in flags:
            assert ours in (theirs, alone)
            seen.add(ours)
    assert seen == {True, False}


def test_metrics_are_those_of_lm_eval_on_the_checkpoint(both: Cases) -> None:
    """Where an accuracy differs, the choices of the item are as close as rounding."""
    for (_, name), case in both.items():
        ours, theirs = case.ours.score, case.theirs.score
        assert (ours.primary, ours.items, ours.num_fewshot) == (
            theirs.primary,
            theirs.items,
            theirs.num_fewshot,
        )
        assert ours.metrics.keys() == theirs.metrics.keys() != set()
        assert ours.samples.keys() == theirs.samples.keys()
        flips = {metric: flipped(case, metric) for metric in ACCURACIES if metric in ours.metrics}
        for metric, items in flips.items():
            assert case.dtype != "float32" or not items
            assert all(margin(case, metric, item) <= 0 for item in items), (name, metric, items)
        for metric, value in theirs.metrics.items():
            if not flips.get(metric):
                rounded = RELATIVE if case.dtype == "float32" else math.expm1(max(case.allowed))
                exact = metric in ACCURACIES
                found = ours.metrics[metric]["value"]
                assert found == pytest.approx(value["value"], rel=0 if exact else rounded, abs=0)


def flipped(case: Both, metric: str) -> list[int]:
    """Items whose accuracy differs."""
    ours, theirs = case.ours.score.samples, case.theirs.score.samples
    assert ours["doc_id"] == theirs["doc_id"]
    rows = zip(ours["doc_id"], ours[metric], theirs[metric], strict=True)
    return [item for item, a, b in rows if a != b]


def margin(case: Both, metric: str, item: int) -> float:
    """How much further lm-eval's two best choices of an item are apart than rounding moves them."""
    numbers = case.answers_of(item)
    texts = [case.task.instances[n].args[1].strip() for n in numbers]
    lengths = [len(text) if metric == "acc_norm" else 1 for text in texts]
    values = [case.theirs.loglikelihoods[n] / k for n, k in zip(numbers, lengths, strict=True)]
    moved = [case.allowed[n] / k for n, k in zip(numbers, lengths, strict=True)]
    (best, first), (second, other) = sorted(zip(values, moved, strict=True), reverse=True)[:2]
    return (best - second) - (first + other)


def test_task_score_is_that_of_lm_evals_simple_evaluate(
    save_model: Callable[..., Path], folder: Path, tasks: dict[str, PreparedTask], tmp_path: Path
) -> None:
    """Which makes its own requests from the YAML files, examples in the prompt included."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    source = save_model(tmp_path / "model", **SIZES)
    scorer = one_pass(source, {"baseline": Edit()}, "float32", "float32")
    lm = HFLM(pretrained=str(source), dtype="float32", device="cpu", batch_size=16)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    theirs = simple_evaluate(lm, tasks=[*TASKS], task_manager=manager, bootstrap_iters=0)
    for name, task in tasks.items():
        scorer.answer(task, ["baseline"])
        ours = scorer.score(task, "baseline")
        assert ours.num_fewshot == theirs["n-shot"][name] == (5 if name == "shots" else 0)
        for metric, value in ours.metrics.items():
            wanted = theirs["results"][name][f"{metric},none"]
            exact = metric in ACCURACIES
            assert value["value"] == pytest.approx(wanted, rel=1e-12 if exact else RELATIVE)


# ---- requests


@pytest.fixture(scope="module")
def scorer(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> OnePass:
    source = save_model(tmp_path_factory.mktemp("scorer") / "model", **SIZES)
    return one_pass(source, {"baseline": Edit(), "removal": Edit((BLOCK,))}, "float32", "float32")


def test_tasks_have_the_peculiarities_that_they_are_for(
    scorer: OnePass, tasks: dict[str, PreparedTask]
) -> None:
    requests = {name: scorer.lm.requests(task.instances) for name, task in tasks.items()}
    counts = [
        sum(instance.doc_id == item for instance in tasks["several"].instances) for item in range(10)
    ]
    assert {*counts} == {2, 3, 4, 5}
    assert {len(request.targets) for request in requests["several"]} >= {2, 3, 14}
    assert all("\n\n" in instance.args[0] for instance in tasks["shots"].instances)
    assert all(len(request.split[0]) == 1 for request in requests["bare"])
    assert {len(request.tokens) for request in requests["overlong"]} >= {LENGTH}
    assert len(requests["rolling"]) > len(tasks["rolling"].instances)
    merged = [
        scorer.lm.tok_encode(context + choice)[: len(scorer.lm.tok_encode(context))]
        != scorer.lm.tok_encode(context)
        for context, choice in (instance.args for instance in tasks["merging"].instances)
    ]
    assert any(merged)


def test_texts_are_made_tokens_once(
    scorer: OnePass, tasks: dict[str, PreparedTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, texts = scorer.lm.tokenizer.encode, []

    def counted(text: str, **settings: Any) -> list[int]:
        texts.append(text)
        return encode(text, **settings)

    monkeypatch.setattr(scorer.lm, "_encoded", {})
    monkeypatch.setattr(scorer.lm.tokenizer, "encode", counted)
    first = {name: scorer.lm.requests(task.instances) for name, task in tasks.items()}
    assert len(texts) == len({*texts}) > 100
    texts.clear()
    assert {name: scorer.lm.requests(task.instances) for name, task in tasks.items()} == first
    scorer.answer(tasks["several"], ["baseline", "removal"])
    for variant in ("baseline", "removal"):
        scorer.score(tasks["several"], variant)
    assert not texts


def test_answers_are_asked_for_once(scorer: OnePass, tasks: dict[str, PreparedTask]) -> None:
    scorer.answer(tasks["endings"], ["baseline", "removal"])
    before = scorer.sweep.work.requests
    scorer.answer(tasks["endings"], ["removal", "baseline"])
    assert scorer.sweep.work.requests == before


@pytest.mark.parametrize(
    ("continuation", "message"),
    [
        (" red" * 200, f"tokens cannot be scored; the model takes 1 to {LENGTH}."),
        ("e", "a choice of 0 tokens cannot be scored"),
    ],
    ids=["too long", "all of it a part of the context's last token"],
)
def test_choice_that_cannot_be_scored_is_refused(
    scorer: OnePass, tmp_path: Path, continuation: str, message: str
) -> None:
    rows = [{"question": "One th", "choices": [" two", continuation], "answer": 0}]
    task = prepared(write_task(tmp_path, "odd", CHOICE | {"target_delimiter": ""}, rows), "odd")
    with pytest.raises(InputError) as error:
        scorer.answer(task, ["baseline"])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_longest_choice_that_the_model_takes_is_scored(scorer: OnePass, tmp_path: Path) -> None:
    count = LENGTH // len(scorer.lm.tok_encode(" red"))
    rows = [{"question": "One", "choices": [" red" * count, " two"], "answer": 0}]
    task = prepared(write_task(tmp_path, "odd", CHOICE | {"target_delimiter": ""}, rows), "odd")
    (longest, _) = sorted(scorer.lm.requests(task.instances), key=lambda r: -len(r.targets))
    assert len(longest.targets) == LENGTH == len(longest.tokens)
    scorer.answer(task, ["baseline"])
    _, wanted = scorer.ask_both_ways("baseline", [longest])
    found = scorer.sweep.known.of("baseline", longest)
    assert found.loglikelihood == pytest.approx(wanted[0].loglikelihood, abs=TOLERANCE)


# ---- runs


KILLED = """
import os, signal, sys
from bench.scoring.answers import Answers
keep, kept = Answers.keep, []

def keep_and_die(self, *args):
    keep(self, *args)
    if self._path:
        kept.append(self)
    if len(kept) == 4:
        os.kill(os.getpid(), signal.SIGKILL)

Answers.keep = keep_and_die
from bench.cli import main
main(["run", *sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def content(small_suite: dict[str, Any], folder: Path) -> dict[str, Any]:
    score = {"tasks": ["several", "endings"], "include_path": str(folder), "batch_tokens": 64}
    score["generate"] = "transformers"
    return small_suite | {"score": score}


@pytest.fixture(scope="module")
def run(
    call_here: Call, content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, subprocess.CompletedProcess[str]]]:
    """Runs the suite with other settings of its score section, on a copy of a result folder."""

    def run(
        start: Path | None = None, *flags: str, **score: Any
    ) -> tuple[Path, subprocess.CompletedProcess[str]]:
        folder = tmp_path_factory.mktemp("run")
        if start:
            shutil.copytree(start, folder / "out")
        suite = folder / "suite.yaml"
        suite.write_text(yaml.safe_dump(content | {"score": content["score"] | score}))
        return folder / "out", call_here("run", suite, "--out", folder / "out", *flags)

    return run


Runs = Callable[..., tuple[Path, subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def finished(run: Runs) -> Path:
    out, result = run(tasks=["several", "endings", "speak"])
    assert result.returncode == 0, result.stderr
    return out


@pytest.fixture(scope="module")
def pruned(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished result folder with nothing scored."""
    out = tmp_path_factory.mktemp("pruned") / "out"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "samples")
    for stem, record in Store(out).all().items():
        record.quality, record.status = {}, "started"
        Store(out).write(stem, record)
    return out


def scores(out: Path) -> dict[tuple[str, str], Task]:
    """(label, task) → its score."""
    return {
        (record.label, name): task
        for record in Store(out).all().values()
        for name, task in record.quality.items()
    }


def test_records_say_how_each_task_was_scored(finished: Path) -> None:
    found = scores(finished)
    assert len(found) == 9
    for (_, name), task in found.items():
        alone = name == "speak"
        assert task.method == ("per-variant" if alone else "one-pass")
        assert task.reason == ("score.generate is transformers" if alone else None)
        assert task.pass_variants == (None if alone else 3)
        assert (task.pass_seconds is None) == alone
        assert task.dtype == "float32"
    assert {record.status for record in Store(finished).all().values()} == {"complete"}


def test_records_say_how_many_answers_changed_and_how_far_predictions_are(finished: Path) -> None:
    for (label, name), task in scores(finished).items():
        assert task.flips and task.flips.metric == task.primary
        assert task.flips.items == task.items
        assert (task.divergence is None) == (name == "speak")  # generated, checkpoint by checkpoint
        if label == "baseline":
            assert task.flips.changed == 0
            assert task.divergence is None or task.divergence.mean == task.divergence.p99 == 0
        else:
            assert task.divergence is None or 0 < (task.divergence.mean or 0) < (
                task.divergence.p99 or 0
            )
    assert any(task.flips and task.flips.changed for task in scores(finished).values())


@pytest.mark.parametrize("order", [("*/baseline", "*/*/*"), ("*/*/*", "*/baseline")], ids=repr)
def test_changes_are_the_same_where_the_intact_model_is_scored_in_another_run(
    run: Runs, pruned: Path, finished: Path, order: tuple[str, str]
) -> None:
    half, result = run(pruned, "--only", order[0])
    assert result.returncode == 0, result.stderr
    if order[1] == "*/baseline":
        assert all(task.divergence and task.flips is None for task in scores(half).values())
    whole, result = run(half, "--only", order[1])
    assert result.returncode == 0, result.stderr
    wanted = scores(finished)
    for place, task in scores(whole).items():
        assert (task.flips, task.divergence) == (wanted[place].flips, wanted[place].divergence)
    assert len(scores(whole)) == 6


def test_flips_follow_the_metric_that_counts(run: Runs, finished: Path) -> None:
    out, result = run(finished, tasks=[{"task": "several", "metric": "acc_norm"}])
    assert result.returncode == 0, result.stderr
    for stem, record in Store(out).all().items():
        task, columns = record.quality["several"], Store(out).read_samples(stem)["several"]
        assert task.flips and task.flips.metric == task.primary == "acc_norm"
        intact = next(s for s, r in Store(out).all().items() if r.label == "baseline")
        before = Store(out).read_samples(intact)["several"]
        pairs = zip(before["chosen:acc_norm"], columns["chosen:acc_norm"], strict=True)
        assert task.flips.changed == sum(a != b for a, b in pairs)


def test_flips_of_results_that_kept_no_answers_are_unknown(run: Runs, finished: Path) -> None:
    older = finished.parent / "older"
    shutil.copytree(finished, older)
    for stem, record in Store(older).all().items():
        samples = Store(older).read_samples(stem)
        for task, columns in samples.items():
            record.quality[task].flips = record.quality[task].divergence = None
            samples[task] = {key: v for key, v in columns.items() if not key.startswith("chosen:")}
        Store(older).write_samples(stem, samples)
        Store(older).write(stem, record)
    out, result = run(older, tasks=["several", "endings", "speak"])
    assert result.returncode == 0, result.stderr
    assert all(task.flips is task.divergence is None for task in scores(out).values())


def test_answers_are_gone_once_all_is_scored(finished: Path) -> None:
    assert not [*(finished / "answers").glob("*")]


def test_per_variant_method_gives_the_same_scores(run: Runs, pruned: Path, finished: Path) -> None:
    out, result = run(pruned, method="per-variant")
    assert result.returncode == 0, result.stderr
    wanted = scores(finished)
    for place, task in scores(out).items():
        assert (task.method, task.reason) == ("per-variant", "score.method is per-variant")
        assert task.pass_variants is task.pass_seconds is None
        assert task.identity == wanted[place].identity
        for name, metric in task.metrics.items():
            exact = name in ACCURACIES
            found = wanted[place].metrics[name].value
            assert found == pytest.approx(metric.value, rel=0 if exact else RELATIVE, abs=0)
    for stem in Store(out).all():
        ours, theirs = Store(finished).read_samples(stem), Store(out).read_samples(stem)
        assert {name: ours[name] for name in ("several",)} == {"several": theirs["several"]}


def test_scores_of_one_method_count_for_the_other(run: Runs, finished: Path) -> None:
    before = {path: path.read_bytes() for path in (finished / "records").iterdir()}
    out, result = run(finished, method="per-variant")
    assert result.returncode == 0
    assert before == {
        finished / "records" / path.name: path.read_bytes() for path in (out / "records").iterdir()
    }


def test_other_dtype_scores_again_and_prunes_nothing(run: Runs, finished: Path) -> None:
    out, result = run(finished, dtype="bfloat16")
    assert result.returncode == 0, result.stderr
    old, new = scores(finished), scores(out)
    for place in ((label, task) for label, task in old if task != "speak"):
        assert new[place].dtype == "bfloat16"
        assert new[place].identity == old[place].identity.model_copy(update={"dtype": "bfloat16"})
        assert new[place].pass_variants == 3
    assert any(new[place].metrics != old[place].metrics for place in old)
    for stem, record in Store(out).all().items():
        assert record.prune == Store(finished).all()[stem].prune


def test_variant_scored_later_gets_the_scores_of_one_scored_with_the_others(
    run: Runs, finished: Path
) -> None:
    lacking = finished.parent / "lacking"
    shutil.copytree(finished, lacking)
    stem, record = next((s, r) for s, r in Store(lacking).all().items() if r.label == "lstsq")
    del record.quality["several"], record.quality["endings"]
    Store(lacking).write(stem, record)
    out, result = run(lacking, tasks=["several", "endings", "speak"])
    assert result.returncode == 0, result.stderr
    assert scores(out)["lstsq", "several"].pass_variants == 1
    assert stable(out) == stable(finished)


def test_run_killed_while_scoring_keeps_answers_and_ends_with_the_same_records(
    run: Runs, pruned: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole, _ = run(pruned)
    suite, out = tmp_path / "suite.yaml", tmp_path / "out"
    suite.write_text(yaml.safe_dump(content))
    shutil.copytree(pruned, out)
    command = [sys.executable, "-c", KILLED, str(suite), "--out", str(out)]
    killed = subprocess.run(command, capture_output=True, env=os.environ | {"DISABLE_MULTIPROC": "1"})
    assert killed.returncode == -signal.SIGKILL
    assert not scores(out)
    (answers,) = (out / "answers").iterdir()
    _, *batches = filter(None, answers.read_text().splitlines())
    assert len(batches) == 4
    kept: list[int] = []
    keep = Answers.keep

    def counted(self: Answers, *found: Any) -> None:
        if self._path:
            kept.append(len(found[0]))
        keep(self, *found)

    monkeypatch.setattr(Answers, "keep", counted)
    resumed, result = run(out)
    assert result.returncode == 0, result.stderr
    assert stable(resumed) == stable(whole)
    assert scores(resumed).keys() == scores(whole).keys() != set()
    kept_again = kept.copy()
    kept.clear()
    run(pruned)
    assert kept_again == kept[4:]


def test_wrong_answers_send_a_task_checkpoint_by_checkpoint(
    run: Runs,
    pruned: Path,
    finished: Path,
    zero_positions: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bench.scoring.forkable._try_small", lambda _model: None)
    zero_positions()
    out, result = run(pruned)
    assert result.returncode == 0, result.stderr
    wanted = scores(finished)
    for place, task in scores(out).items():
        assert task.method == "per-variant"
        if place[1] != "speak":
            assert task.reason
            assert re.fullmatch(
                r"one pass differs by \S+ nats on \d+ requests from one request at a time", task.reason
            )
        for name, metric in task.metrics.items():
            exact = name in ACCURACIES
            found = wanted[place].metrics[name].value
            assert found == pytest.approx(metric.value, rel=0 if exact else RELATIVE, abs=0)


def test_model_that_cannot_be_forked_is_scored_checkpoint_by_checkpoint(
    call_here: Call, content: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    model, suite = tmp_path / "falcon", tmp_path / "suite.yaml"
    small("falcon", **FAMILIES["falcon-sequential"].settings).save_pretrained(model)
    tokenizer.save_pretrained(model)
    prune = {"layers": [2], "solvers": ["uidl"]}
    suite.write_text(yaml.safe_dump(content | {"models": [str(model)], "prune": prune}))
    result = call_here("run", suite, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    found = scores(tmp_path / "out")
    assert len(found) == 4
    for task in found.values():
        assert task.method == "per-variant"
        assert task.reason == "its ALiBi counts places in the sequence, not in the request"
