"""Scoring a matrix in one pass against one ``lm_eval --model hf`` run for each of its models.

By default a few items and the first parameters, which only shows that everything runs. The figures in
``results/perf/`` are from

    pytest tests/perf/test_scoring_speed.py --perf-items 160 --benchmark-json results/perf/scoring.json

and with ``--perf-tasks FOLDER`` from all lm-eval tasks of another folder. ``--perf-lm-eval-dtype
bfloat16`` runs lm_eval in its default, the checkpoint's dtype.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bench.scoring.answers import Answers
from bench.scoring.checkpoint import CheckpointScorer
from bench.scoring.one_pass import OnePass
from bench.scoring.tasks import PreparedTask
from bench.scoring.trees import TreeBatch
from bench.tasks.catalog import find_task
from bench.tasks.index import read_folders
from bench.tasks.spec import TaskSpec
from replaceme.calibration import Batch
from replaceme.divergence import Reference
from replaceme.edit import Edit
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "suites" / "demo"
BLOCKS = {3: Block(13, 16), 6: Block(13, 19), 9: Block(10, 19)}  # those of the demo
BATCH_SIZES = (8, 16, 32)
WIDTH = 576


def variant(block: Block, number: int) -> Edit:
    """Plain removal for number 0, else removal with a transform as a solver may find it."""
    if number == 0:
        return Edit((block,))
    noise = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(number)).double()
    return Edit((block,), {block.start - 1: torch.eye(WIDTH).double() + 1e-3 * noise})


def matrix(solvers: int) -> dict[str, Edit]:
    """The intact model and three counts × so many solvers."""
    edits = {"baseline": Edit()}
    for count, block in BLOCKS.items():
        edits |= {f"{count}/{number}": variant(block, number) for number in range(solvers)}
    return edits


@pytest.fixture(scope="module")
def items(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--perf-items") or 2


@pytest.fixture(scope="module")
def tasks(request: pytest.FixtureRequest, items: int) -> list[PreparedTask]:
    """The demo's tasks, or those of another folder."""
    folder = request.config.getoption("--perf-tasks") or DEMO
    return [
        PreparedTask(TaskSpec(task=name), find_task(name, [folder]), items)
        for name in sorted(read_folders((folder,)))
    ]


@pytest.fixture(scope="module")
def one_pass(source: Path) -> Callable[..., OnePass]:
    def load(edits: dict[str, Edit]) -> OnePass:
        return OnePass(
            source,
            edits,
            saved_in="bfloat16",
            dtype="float32",
            device="cpu",
            batch_size=16,
            answers=Answers(),
        )

    return load


@pytest.fixture(scope="module")
def by_lm_eval(request: pytest.FixtureRequest) -> Callable[[Path, list[PreparedTask], int], None]:
    """One run of ``lm_eval --model hf``, load included."""
    dtype = request.config.getoption("--perf-lm-eval-dtype")

    def run(folder: Path, tasks: list[PreparedTask], batch_size: int) -> None:
        scorer = CheckpointScorer(folder, dtype=dtype, device="cpu", batch_size=batch_size)
        for task in tasks:
            task.score(scorer.lm, bootstraps=0)

    return run


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
def test_one_run_of_lm_eval(
    benchmark: Any, by_lm_eval: Any, source: Path, tasks: list[PreparedTask], batch_size: int
) -> None:
    benchmark.pedantic(by_lm_eval, (source, tasks, batch_size), rounds=1)


@pytest.mark.parametrize("count", BLOCKS)
def test_one_run_of_lm_eval_on_a_pruned_model(
    benchmark: Any, by_lm_eval: Any, source: Path, tasks: list[PreparedTask], tmp_path: Path, count: int
) -> None:
    """Variants of the same count take the same time, so one of them is run."""
    write_checkpoint(source, tmp_path / "pruned", variant(BLOCKS[count], 1), None)
    benchmark.pedantic(by_lm_eval, (tmp_path / "pruned", tasks, 16), rounds=1)


def answer_in_one_pass(scorer: OnePass, tasks: list[PreparedTask]) -> OnePass:
    """All answers, and the metrics of all variants without bootstraps."""
    for task in tasks:
        scorer.answer(task, [*scorer.edits])
        for name in scorer.edits:
            with scorer.lm.answering(lambda request, n=name: scorer.sweep.known.of(n, request)):
                task.score(scorer.lm, bootstraps=0)
    return scorer


def floor_seconds(scorer: OnePass) -> float:
    """The layers and output matrices that the sweep had to run, at the speed of plain ones."""
    decoder = scorer.sweep.fork.decoder
    rows = Batch.of([[*range(100, 164)]] * 16)
    entered, calls = decoder.enter(rows)
    layers, heads = [], []
    for _ in range(3):
        states, start = entered, time.perf_counter()
        for layer in range(len(decoder.layers)):
            states = decoder.step(layer, states, calls[layer])
        layers.append((time.perf_counter() - start) / (rows.ids.numel() * len(decoder.layers)))
        start = time.perf_counter()
        decoder.logits(states[:2]).log_softmax(-1)
        heads.append((time.perf_counter() - start) / 128)
    work = scorer.sweep.work
    return work.token_layers * min(layers) + work.predictions * min(heads)


def test_sweep_of_ten_models(
    benchmark: Any, one_pass: Callable[..., OnePass], tasks: list[PreparedTask]
) -> None:
    scorer = benchmark.pedantic(lambda: answer_in_one_pass(one_pass(matrix(3)), tasks), rounds=1)
    benchmark.extra_info |= asdict(scorer.sweep.work) | {
        "budget": scorer.sweep.known.budget,
        "floor_seconds": floor_seconds(scorer),
    }


def test_share_of_a_sweep_that_divergences_take(
    benchmark: Any, one_pass: Callable[..., OnePass], tasks: list[PreparedTask]
) -> None:
    """Batch after batch with and without them, in processor time, which neighbours disturb less."""
    scorer = one_pass(matrix(3))
    sweep, seconds = scorer.sweep, {True: 0.0, False: 0.0}
    requests = [r for task in tasks for r in scorer.lm.requests(task.instances)]
    trees = sweep.trees(requests)
    batches = [TreeBatch(batch) for batch in sweep.batches(trees, sweep.measure_budget(trees))]

    def answer() -> None:
        for batch in batches:
            for known in (True, False):
                with pytest.MonkeyPatch.context() as patch:
                    if not known:
                        patch.setattr(Reference, "__init__", lambda *_: None)
                        patch.setattr(Reference, "diverge", lambda _, logs: logs[:, 0])
                    start = time.process_time()
                    sweep.fork.answers(batch)
                    seconds[known] += time.process_time() - start

    sweep.fork.answers(batches[0])
    benchmark.pedantic(answer, rounds=1)
    share = seconds[True] / seconds[False] - 1
    benchmark.extra_info |= {"share": share, "seconds": seconds[False], "requests": len(requests)}


def test_bootstraps_of_ten_models(
    benchmark: Any, one_pass: Callable[..., OnePass], tasks: list[PreparedTask]
) -> None:
    """What standard errors of perplexities cost, which are lm-eval's own."""
    scorer = answer_in_one_pass(one_pass({"baseline": Edit()}), tasks)
    benchmark.pedantic(lambda: [scorer.score(task, "baseline") for task in tasks], rounds=1)


@pytest.mark.parametrize("variants", [1, 4, 10, 31])
def test_sweep_grows_with_the_layers_that_differ(
    benchmark: Any, one_pass: Callable[..., OnePass], tasks: list[PreparedTask], variants: int
) -> None:
    scorer = one_pass(matrix((variants - 1) // 3))
    requests = [r for task in tasks for r in scorer.lm.requests(task.instances)][::8]
    benchmark.pedantic(lambda: scorer.sweep.run([*scorer.edits], requests), rounds=1)
    benchmark.extra_info |= {"layers per token": scorer.sweep.fork.steps, "requests": len(requests)}


# ---- long contexts


def five_shot(folder: Path, sampler: str) -> Path:
    """The demo's facts with five examples: the same for every item, or drawn for each."""
    config = yaml.safe_load((DEMO / "facts.yaml").read_text())
    lines = (DEMO / "facts.jsonl").read_text().splitlines()
    (folder / "facts.jsonl").write_text("\n".join(lines))
    config |= {"task": "five_shot", "num_fewshot": 5, "fewshot_config": {"sampler": sampler}}
    (folder / "five_shot.yaml").write_text(yaml.safe_dump(config))
    return folder


def passages(folder: Path, prose: str) -> Path:
    """Passages of our own prose with four questions each, of four choices."""
    words = prose.split()
    items = []
    for start in range(0, 40 * 180, 180):
        passage = " ".join(words[start : start + 180])
        for question in range(4):
            at = start + 20 + 40 * question
            choices = [" ".join(words[at + k : at + k + 3]) for k in (10, 47, 83, 121)]
            quoted = " ".join(words[at : at + 10])
            items.append(
                {"text": f"{passage}\nQuestion: what follows '{quoted}'?\nAnswer:", "choices": choices}
            )
    (folder / "passages.jsonl").write_text("\n".join(map(json.dumps, items)))
    config = {
        "task": "passages",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "passages.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "passages.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(params=["passages", "five_shot-first_n", "five_shot-default"])
def long_contexts(
    request: pytest.FixtureRequest, tmp_path: Path, prose: str, items: int
) -> Iterator[list[PreparedTask]]:
    name, _, sampler = request.param.partition("-")
    folder = passages(tmp_path, prose) if name == "passages" else five_shot(tmp_path, sampler)
    yield [PreparedTask(TaskSpec(task=name), find_task(name, [folder]), min(items, 160))]


def test_one_run_of_lm_eval_on_long_contexts(
    benchmark: Any, by_lm_eval: Any, source: Path, long_contexts: list[PreparedTask]
) -> None:
    benchmark.pedantic(by_lm_eval, (source, long_contexts, 16), rounds=1)


def test_sweep_of_ten_models_on_long_contexts(
    benchmark: Any, one_pass: Callable[..., OnePass], long_contexts: list[PreparedTask]
) -> None:
    scorer = benchmark.pedantic(lambda: answer_in_one_pass(one_pass(matrix(3)), long_contexts), rounds=1)
    benchmark.extra_info |= asdict(scorer.sweep.work) | {"floor_seconds": floor_seconds(scorer)}
