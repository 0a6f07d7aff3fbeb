"""The streaming passes against states of single sequences, computed in plain torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from replaceme.architectures import ARCHITECTURES
from replaceme.calibration import Batches
from replaceme.selection import Block
from replaceme.statistics import Moments, Probe, TokenSample, collect_moments, layer_distances

BLOCKS = [Block(1, 3), Block(3, 5), Block(3, 7), Block(5, 8)]
Sequences = list[list[int]]
Run = Callable[[Any, Sequences], Any]


def probe_of(model: Any, after_norm: bool = False) -> Probe:
    return Probe(model, ARCHITECTURES[model.config.model_type], after_norm)


def moments_of(
    model: Any, sequences: Sequences, batch_size: int = 8, sample: int = 64
) -> dict[Block, Moments]:
    return collect_moments(probe_of(model), Batches(sequences, batch_size), BLOCKS, sample)


def scaled_error(got: Tensor, rows: Tensor, columns: Tensor) -> float:
    """Largest error of ``rowsᵀ columns`` relative to the norms of the two columns of each entry."""
    scale = rows.norm(dim=0)[:, None] * columns.norm(dim=0)
    return float(((got - rows.mT @ columns).abs() / scale).max())


@contextmanager
def massive_first_tokens(model: Any) -> Iterator[None]:
    """First tokens get a 3,000 times larger MLP output in layer 2, like the sinks of real models."""

    def enlarge(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        return torch.cat([3000 * output[:, :1], output[:, 1:]], dim=1)

    handle = model.model.layers[2].mlp.down_proj.register_forward_hook(enlarge)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def states(llama: Any, sequences: Sequences, states_alone: Run) -> Any:
    return states_alone(llama, sequences)


@pytest.fixture(scope="module")
def moments(llama: Any, sequences: Sequences) -> dict[Block, Moments]:
    return moments_of(llama, sequences)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_moments_equal_a_float64_computation_from_single_sequences(
    moments: dict[Block, Moments], states: Any, block: Block
) -> None:
    mlp, after = states.mlps[block.start - 1], states.layers[block.end - 1]
    change = after - states.layers[block.start - 1]
    got = moments[block]
    assert got.tokens == sum(states.lengths) == len(mlp)
    assert got.gram.dtype == got.cross.dtype == torch.float64
    assert scaled_error(got.gram, mlp, mlp) < 1e-5
    assert scaled_error(got.cross, mlp, change) < 1e-5
    assert got.change == pytest.approx(float(change.square().sum()), rel=1e-5)
    assert got.energy == pytest.approx(float(after.square().sum()), rel=1e-5)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_padding_never_counts(llama: Any, sequences: Sequences, block: Block) -> None:
    one, eight = (moments_of(llama, sequences, size)[block] for size in (1, 8))
    assert one.tokens == eight.tokens
    torch.testing.assert_close(one.gram, eight.gram, rtol=1e-4, atol=1e-6 * float(one.gram.max()))
    torch.testing.assert_close(one.cross, eight.cross, rtol=1e-4, atol=1e-6 * float(one.cross.max()))
    assert one.change == pytest.approx(eight.change, rel=1e-6)
    assert one.energy == pytest.approx(eight.energy, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("size", [50, 10_000])
def test_token_sample_is_the_tokens_of_lowest_rank(
    llama: Any, sequences: Sequences, states_alone: Run, batch_size: int, size: int
) -> None:
    longest_first = sorted(sequences, key=len, reverse=True)
    alone = states_alone(llama, longest_first)
    ranks = torch.cat([batch.ranks for batch in Batches(sequences, 3)])
    drawn = ranks.argsort()[:size]
    block = Block(3, 7)
    sample = moments_of(llama, sequences, batch_size, size)[block].sample
    assert len(sample) == min(size, len(ranks))
    wanted = TokenSample(alone.mlps[2], alone.layers[2], alone.layers[6])
    for name in ("mlp", "before", "after"):
        got = getattr(sample, name).double()
        torch.testing.assert_close(got, getattr(wanted, name)[drawn], rtol=1e-4, atol=1e-4)


def test_first_tokens_of_a_sample_are_the_smaller_sample(llama: Any, sequences: Sequences) -> None:
    large, small = (moments_of(llama, sequences, sample=size)[Block(3, 5)].sample for size in (200, 30))
    for name in ("mlp", "before", "after"):
        assert torch.equal(getattr(large.first(30), name), getattr(small, name))


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("after_norm", [False, True])
def test_distances_are_the_angles_at_the_last_real_tokens(
    llama: Any, sequences: Sequences, states: Any, batch_size: int, after_norm: bool
) -> None:
    layers = [*states.layers[:-1], states.normed if after_norm else states.layers[-1]]
    rows = np.stack([layer[states.last_tokens].numpy() for layer in layers])
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    wanted = np.arccos(np.clip(np.einsum("isd,jsd->ijs", rows, rows), -1, 1)).mean(-1) / np.pi
    got = layer_distances(probe_of(llama, after_norm), Batches(sequences, batch_size)).numpy()
    away = ~np.eye(len(layers), dtype=bool)
    assert np.abs(got - wanted)[away].max() < 1e-6
    assert np.abs(got.diagonal()).max() < 1e-6


@pytest.mark.parametrize("block", [Block(3, 5), Block(5, 8)], ids=str)
def test_massive_activations_do_not_ruin_precision(
    llama: Any, sequences: Sequences, states_alone: Run, block: Block
) -> None:
    with massive_first_tokens(llama):
        alone = states_alone(llama, sequences)
        got = moments_of(llama, sequences)[block]
    mlp, entry = alone.mlps[block.start - 1], alone.layers[block.start - 1]
    assert entry.norm(dim=1).max() > 100 * entry.norm(dim=1).median()
    assert scaled_error(got.gram, mlp, mlp) < 1e-5
    assert scaled_error(got.cross, mlp, alone.layers[block.end - 1] - entry) < 1e-5


@pytest.mark.parametrize("blocks", [[Block(1, 3)], [Block(3, 5), Block(1, 2)]], ids=str)
def test_layers_behind_the_deepest_block_and_the_head_do_not_run(
    llama: Any, sequences: Sequences, blocks: list[Block]
) -> None:
    calls: Counter[Any] = Counter()
    modules = dict(enumerate(llama.model.layers)) | {"head": llama.lm_head}
    handles = [
        module.register_forward_hook(lambda *_, key=key: calls.update([key]))
        for key, module in modules.items()
    ]
    batches = Batches(sequences, 8)
    collect_moments(probe_of(llama), batches, blocks, 10)
    for handle in handles:
        handle.remove()
    deepest = max(block.end for block in blocks)
    assert calls == dict.fromkeys(range(deepest), len(batches))


def test_one_report_for_every_batch(llama: Any, sequences: Sequences) -> None:
    reports: list[str] = []
    batches = Batches(sequences, 8)
    layer_distances(probe_of(llama), batches, lambda: reports.append("distances"))
    collect_moments(probe_of(llama), batches, BLOCKS, 10, lambda: reports.append("moments"))
    assert Counter(reports) == {"distances": len(batches), "moments": len(batches)}


@pytest.mark.parametrize("fails", [False, True])
def test_model_is_as_before_after_a_pass(
    make_model: Callable[..., Any], sequences: Sequences, fails: bool
) -> None:
    model = make_model()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers, config = list(model.model.layers), model.config.to_dict()
    if fails:
        with pytest.raises(IndexError):
            collect_moments(probe_of(model), Batches([[99_999]]), [Block(1, 2)], 10)
    else:
        layer_distances(probe_of(model), Batches(sequences))
        moments_of(model, sequences)
    assert list(model.model.layers) == layers
    assert model.config.to_dict() == config
    assert not any(module._forward_hooks for module in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())


def test_bfloat16_activations_are_summed_without_rounding(
    make_model: Callable[..., Any], sequences: Sequences
) -> None:
    model = make_model().to(torch.bfloat16)
    got = moments_of(model, sequences, sample=100_000)[Block(3, 7)]
    mlp, before, after = (t.double() for t in (got.sample.mlp, got.sample.before, got.sample.after))
    assert got.sample.mlp.dtype == torch.bfloat16
    assert scaled_error(got.gram, mlp, mlp) < 1e-6
    assert scaled_error(got.cross, mlp, after - before) < 1e-6
