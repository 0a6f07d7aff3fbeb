"""Statistics and solving against plain forwards over the same tokens, and against the published way."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

import replaceme
from replaceme import Block, make_solver
from replaceme.calibration import Batches
from replaceme.decoder import Decoder
from replaceme.solvers import Cosine, Solver
from replaceme.statistics import TokenSample

pytestmark = pytest.mark.slow

COUNTS = (3, 6, 9)
MOMENT_SOLVERS = [make_solver("lstsq"), make_solver("relative"), make_solver("refit")]
PUBLISHED_SOLVERS = [make_solver("uidl"), make_solver("lstsq"), make_solver("cosine")]


@torch.no_grad()
def forward(model: Any, batches: Batches) -> None:
    """What any calibration costs at least: all layers, no output matrix."""
    for batch in batches:
        model.base_model(input_ids=batch.ids, use_cache=False)


def prune_matrix(model: Any, batches: Batches, solvers: Iterable[Solver]) -> list[replaceme.Fit]:
    """Blocks, statistics and solutions of every count and solver."""
    found = replaceme.calibrate(model, batches, counts=COUNTS, solvers=solvers, held_back_tokens=0)
    return [
        replaceme.fit(solver, found, found.choices[count].blocks)
        for count in COUNTS
        for solver in solvers
    ]


@torch.no_grad()
def published_block(model: Any, batches: Batches, count: int) -> Block:
    """A pass of its own for the distances of one count."""
    sums = torch.zeros(len(model.model.layers) - count, dtype=torch.float64)
    for batch in batches:
        states = model.model(batch.ids, use_cache=False, output_hidden_states=True).hidden_states
        last = [s[torch.arange(len(batch.lengths)), batch.lengths - 1].float() for s in states]
        for start in range(1, len(sums) + 1):
            cosine = cosine_similarity(last[start], last[start + count], dim=-1).clamp(-1, 1)
            sums[start - 1] += (cosine.arccos() / math.pi).sum().double()
    start = int(sums.argmin()) + 1
    return Block(start, start + count)


@torch.no_grad()
def published_activations(model: Any, batches: Batches, block: Block) -> TokenSample:
    """A pass of its own for one cell, all activations kept."""
    decoder, parts = Decoder.of(model), []
    reads = {
        "mlp": decoder.branch(block.start - 1),
        "before": decoder.output(block.start - 1),
        "after": decoder.output(block.end - 1),
    }
    for batch in batches:
        seen = decoder.run(batch, reads, until=len(decoder.layers))
        parts.append([seen[name].flatten(0, 1) for name in reads])
    return TokenSample(*(torch.cat(column) for column in zip(*parts, strict=True)))


def published_matrix(model: Any, batches: Batches) -> list[Tensor]:
    """Every cell by itself, with the passes of the published code."""
    found = []
    for count in COUNTS:
        for solver in PUBLISHED_SOLVERS:
            block = published_block(model, batches, count)
            if solver.name == "uidl":
                continue
            kept = published_activations(model, batches, block)
            if isinstance(solver, Cosine):
                orders = (torch.randperm(len(kept)) for _ in range(solver.epochs))
                found.append(solver.descend(kept, orders)[0])
            else:
                x = kept.mlp.double()
                goal = kept.after.double() - kept.before.double() + x
                found.append(torch.linalg.solve(x.mT @ x + 1e-9 * torch.eye(x.shape[1]), x.mT @ goal))
    return found


@pytest.mark.benchmark(group="3 counts × 3 moment solvers against one forward")
@pytest.mark.parametrize("what", ["forward", "matrix"])
def test_matrix_of_moment_solvers(benchmark: Any, real_model: Any, batches: Batches, what: str) -> None:
    benchmark.extra_info["tokens"] = batches.tokens
    if what == "forward":
        benchmark.pedantic(forward, (real_model, batches), rounds=2, warmup_rounds=1)
        return
    fits = benchmark.pedantic(prune_matrix, (real_model, batches, MOMENT_SOLVERS), rounds=1)
    assert all(fit.mean_cosine[1] > fit.mean_cosine[0] for fit in fits if fit.edit.weights)


@pytest.mark.benchmark(group="reconstruct of 6 layers against one forward")
@pytest.mark.parametrize("what", ["forward", "reconstruct"])
def test_reconstruct(benchmark: Any, real_model: Any, batches: Batches, what: str) -> None:
    benchmark.extra_info["tokens"] = batches.tokens
    if what == "forward":
        benchmark.pedantic(forward, (real_model, batches), rounds=2)
        return
    solver, blocks = make_solver("reconstruct"), (Block(13, 19),)
    found = replaceme.calibrate(
        real_model, batches, blocks=[blocks], solvers=[solver], held_back_tokens=0
    )
    fit = benchmark.pedantic(replaceme.fit, (solver, found, blocks), rounds=1)
    assert fit.warning is None


@pytest.mark.benchmark(group="uidl, lstsq, cosine × 3 counts: one pass against the published way")
@pytest.mark.parametrize("way", ["ours", "published"])
def test_published_matrix(benchmark: Any, real_model: Any, batches: Batches, way: str) -> None:
    benchmark.extra_info["tokens"] = batches.tokens
    if way == "ours":
        fits = benchmark.pedantic(prune_matrix, (real_model, batches, PUBLISHED_SOLVERS), rounds=1)
        assert len(fits) == 9
    else:
        transforms = benchmark.pedantic(published_matrix, (real_model, batches), rounds=1)
        assert len(transforms) == 6
