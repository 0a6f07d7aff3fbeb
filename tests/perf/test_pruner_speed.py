"""What the pruner's two shortcuts gain; run with ``pytest tests/perf`` for the table of times."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from replaceme.architectures import ARCHITECTURES
from replaceme.calibration import Batches, windows
from replaceme.selection import Block
from replaceme.statistics import Moments, Probe, collect_moments
from replaceme.surgery import prune_model, write_checkpoint

BLOCKS = [Block(5, 7), Block(4, 7), Block(3, 7)]
WIDE = {"hidden_size": 256, "intermediate_size": 768, "head_dim": 128}
LLAMA = ARCHITECTURES["llama"]


def in_one_pass(probe: Probe, batches: Batches) -> dict[Block, Moments]:
    return collect_moments(probe, batches, BLOCKS, 1000)


def in_three_passes(probe: Probe, batches: Batches) -> dict[Block, Moments]:
    return {block: collect_moments(probe, batches, [block], 1000)[block] for block in BLOCKS}


def stream(source: Path, out: Path, transform: torch.Tensor) -> None:
    write_checkpoint(source, out, BLOCKS[0], transform, {}, overwrite=True)


def load_and_save(source: Path, out: Path, transform: torch.Tensor) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source)
    prune_model(model, LLAMA, BLOCKS[0], transform)
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Times of one thread do not depend on what else the machine does with its other cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def source(save_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("perf") / "model", **WIDE)


@pytest.mark.benchmark(group="moments of three blocks")
@pytest.mark.parametrize("collect", [in_one_pass, in_three_passes])
def test_moments_of_three_blocks(
    benchmark: Any,
    make_model: Callable[..., Any],
    tokenizer: Any,
    prose: str,
    collect: Callable[[Probe, Batches], dict[Block, Moments]],
) -> None:
    probe = Probe(make_model(**WIDE), LLAMA)
    batches = Batches(windows(prose, tokenizer, 128, 32))
    got = benchmark.pedantic(collect, args=(probe, batches), rounds=2)
    for block, wanted in in_three_passes(probe, batches).items():
        assert torch.equal(got[block].gram, wanted.gram)
        assert torch.equal(got[block].cross, wanted.cross)


@pytest.mark.benchmark(group="pruned checkpoint")
@pytest.mark.parametrize("write", [stream, load_and_save])
def test_pruned_checkpoint(
    benchmark: Any, source: Path, tmp_path: Path, write: Callable[[Path, Path, torch.Tensor], None]
) -> None:
    transform = torch.eye(256, dtype=torch.float64) * 1.25
    benchmark.pedantic(write, args=(source, tmp_path / "out", transform), rounds=2)
    stream(source, tmp_path / "wanted", transform)
    got, wanted = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "wanted"))
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
