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

from replaceme.calibration import Batches
from replaceme.decoder import Decoder
from replaceme.distances import layer_distances
from replaceme.hooks import first
from replaceme.selection import Block
from replaceme.solvers.linear import solve_ridge
from replaceme.statistics import (
    DIAGNOSED_TOKENS,
    BlockStatistics,
    Kind,
    Needs,
    TokenSample,
    collect,
)

FEW = 8  # tokens of a check
BLOCKS = [Block(1, 3), Block(3, 5), Block(3, 7), Block(5, 8)]
KINDS = [
    Kind(of_input, rows) for of_input in (False, True) for rows in ("equal", "relative", "geometric")
]
Sequences = list[list[int]]
Run = Callable[..., Any]


def statistics_of(
    model: Any, sequences: Sequences, batch_size: int = 8, sample: int = 0, blocks: Any = BLOCKS
) -> dict[Block, BlockStatistics]:
    needs = Needs(frozenset(KINDS), sample)
    return collect(Decoder.of(model), Batches(sequences, batch_size), blocks, needs)


def scale_of(kind: Kind, before: Tensor, after: Tensor) -> Tensor:
    """Square roots of the weights of tokens, [tokens, 1]."""
    weights = {
        "equal": torch.ones(len(after)),
        "relative": after.norm(dim=1) ** -2,
        "geometric": 1 / (before.norm(dim=1) * after.norm(dim=1)),
    }
    return weights[kind.rows][:, None].sqrt()


def columns_of(states: Any, block: Block, kind: Kind) -> tuple[Tensor, Tensor]:
    """X and D of a Llama, rows already weighted."""
    layer = block.start - 1
    before, after = states.layers[layer], states.layers[block.end - 1]
    rows, change = (states.inputs if kind.of_input else states.mlps)[layer], after - before
    scale = scale_of(kind, before, after)
    return rows * scale, change * scale


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
def massive(
    llama: Any, sequences: Sequences, states_alone: Run
) -> tuple[Any, dict[Block, BlockStatistics]]:
    """States and statistics of a model with massive activations."""
    with massive_first_tokens(llama):
        return states_alone(llama, sequences), statistics_of(llama, sequences)


@pytest.fixture(scope="module")
def unpadded(llama: Any, sequences: Sequences) -> dict[Block, BlockStatistics]:
    """From batches of one sequence."""
    return statistics_of(llama, sequences, batch_size=1)


@pytest.fixture(scope="module")
def many(sequences: Sequences) -> Sequences:
    """More tokens than a sample has at least, longest sequence first."""
    return sorted(sequences * 5, key=len, reverse=True)


@pytest.fixture(scope="module")
def many_states(llama: Any, many: Sequences, states_alone: Run) -> Any:
    return states_alone(llama, many)


@pytest.fixture(scope="module")
def statistics(llama: Any, sequences: Sequences) -> dict[Block, BlockStatistics]:
    return statistics_of(llama, sequences)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_moments_equal_a_float64_computation_from_single_sequences(
    statistics: dict[Block, BlockStatistics], states: Any, block: Block, kind: Kind
) -> None:
    rows, change = columns_of(states, block, kind)
    got = statistics[block].moments[kind]
    assert statistics[block].tokens == sum(states.lengths) == len(rows)
    assert got.gram.dtype == got.cross.dtype == torch.float64
    assert scaled_error(got.gram, rows, rows) < 1e-5
    assert scaled_error(got.cross, rows, change) < 1e-5


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(
    "model_type, projection, settings",
    [
        ("granite", "down_proj", {"residual_multiplier": 0.4, "mlp_bias": True}),
        ("phi", "fc2", {}),
        ("llama", "down_proj", {"mlp_bias": True}),
    ],
)
def test_bias_is_a_feature_and_the_residual_multiplier_a_factor(
    make_model: Run,
    sequences: Sequences,
    states_alone: Run,
    model_type: str,
    projection: str,
    settings: dict[str, Any],
    kind: Kind,
) -> None:
    model, block = make_model(model_type, num_hidden_layers=4, **settings), Block(2, 4)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data += 0.3
    states = states_alone(model, sequences, projection)
    rows, change = columns_of(states, block, kind)
    if kind.of_input:
        ones = scale_of(kind, states.layers[1], states.layers[3])
        rows = torch.cat([rows, ones], dim=1)
    rows = rows * settings.get("residual_multiplier", 1.0)
    got = statistics_of(model, sequences, blocks=[block])[block].moments[kind]
    assert scaled_error(got.gram, rows, rows) < 1e-5
    assert scaled_error(got.cross, rows, change) < 1e-5


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_padding_never_counts(
    unpadded: dict[Block, BlockStatistics],
    statistics: dict[Block, BlockStatistics],
    block: Block,
    kind: Kind,
) -> None:
    one = unpadded[block]
    assert one.tokens == statistics[block].tokens
    alone, padded = one.moments[kind], statistics[block].moments[kind]
    torch.testing.assert_close(alone.gram, padded.gram, rtol=1e-4, atol=1e-6 * float(alone.gram.max()))
    torch.testing.assert_close(
        alone.cross, padded.cross, rtol=1e-4, atol=1e-6 * float(alone.cross.max())
    )


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("size", [0, 10_000])
def test_token_sample_is_the_tokens_of_lowest_rank(
    llama: Any, many: Sequences, many_states: Any, batch_size: int, size: int
) -> None:
    ranks = torch.cat([batch.ranks for batch in Batches(many, 3)])
    drawn = ranks.argsort()[: max(size, DIAGNOSED_TOKENS)]
    assert DIAGNOSED_TOKENS < len(ranks) < 10_000
    block = Block(3, 7)
    sample = statistics_of(llama, many, batch_size, size, blocks=[block])[block].sample
    assert len(sample) == len(drawn)
    alone = many_states
    wanted = TokenSample(alone.mlps[2], alone.layers[2], alone.layers[6])
    for name in ("mlp", "before", "after"):
        got = getattr(sample, name).double()
        torch.testing.assert_close(got, getattr(wanted, name)[drawn], rtol=1e-4, atol=1e-4)
    assert sample.inputs is not None
    features = alone.inputs[2][drawn[:DIAGNOSED_TOKENS]]
    torch.testing.assert_close(sample.inputs.double(), features, rtol=1e-4, atol=1e-4)


def test_first_tokens_of_a_sample_are_a_sample(statistics: dict[Block, BlockStatistics]) -> None:
    sample = statistics[Block(3, 5)].sample
    for name in ("mlp", "before", "after", "inputs"):
        assert torch.equal(getattr(sample.first(30), name), getattr(sample, name)[:30])
    assert len(sample.first(30)) == 30


def test_what_is_kept_does_not_grow_with_the_number_of_samples(llama: Any, sequences: Sequences) -> None:
    few, many = (
        statistics_of(llama, sequences * times, sample=5000, blocks=[Block(3, 7)])[Block(3, 7)]
        for times in (5, 10)
    )
    assert many.tokens == 2 * few.tokens
    assert len(many.sample) == len(few.sample) == 5000
    assert few.sample.inputs is not None and many.sample.inputs is not None
    assert len(many.sample.inputs) == len(few.sample.inputs) == DIAGNOSED_TOKENS
    for name in ("mlp", "before", "after", "inputs"):
        kept = getattr(many.sample, name)
        assert kept.untyped_storage().nbytes() == kept.nbytes


def angles(layers: list[Tensor], tokens: Any) -> np.ndarray:
    """Mean angle over π of all pairs of layers at some tokens, in numpy."""
    rows = np.stack([layer[tokens].numpy() for layer in layers])
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.arccos(np.clip(np.einsum("isd,jsd->ijs", rows, rows), -1, 1)).mean(-1) / np.pi


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("after_norm", [False, True])
def test_distances_are_the_angles_at_the_last_and_at_all_real_tokens(
    llama: Any, sequences: Sequences, states: Any, batch_size: int, after_norm: bool
) -> None:
    layers = [*states.layers[:-1], states.normed if after_norm else states.layers[-1]]
    decoder, batches = Decoder.of(llama, after_norm), Batches(sequences, batch_size)
    at_last, at_all = layer_distances(decoder, batches), layer_distances(decoder, batches, "all")
    away = ~np.eye(len(layers), dtype=bool)
    for got, tokens in ((at_last, states.last_tokens), (at_all, slice(None))):
        assert got.dtype == torch.float64
        assert np.abs(got.numpy() - angles(layers, tokens))[away].max() < 1e-6
    assert at_last.diagonal().abs().max() < 1e-6
    assert at_all.diagonal().abs().max() < 2e-4  # in float32, and arccos near 1 halves the digits


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("block", [Block(3, 5), Block(5, 8)], ids=str)
def test_massive_activations_do_not_ruin_precision(
    massive: tuple[Any, dict[Block, BlockStatistics]], block: Block, kind: Kind
) -> None:
    alone, got = massive[0], massive[1][block].moments[kind]
    entry = alone.layers[block.start - 1]
    assert entry.norm(dim=1).max() > 100 * entry.norm(dim=1).median()
    rows, change = columns_of(alone, block, kind)
    assert scaled_error(got.gram, rows, rows) < 1e-5
    assert scaled_error(got.cross, rows, change) < 1e-5


@pytest.mark.parametrize("blocks", [[Block(1, 3)], [Block(3, 5), Block(1, 2)]], ids=str)
def test_layers_behind_the_deepest_block_and_the_head_do_not_run(
    llama: Any, sequences: Sequences, blocks: list[Block]
) -> None:
    calls: Counter[Any] = Counter()
    mlps: dict[Any, Any] = {i: layer.mlp for i, layer in enumerate(llama.model.layers)}
    modules = mlps | {"head": llama.lm_head}
    handles = [
        module.register_forward_hook(
            lambda _m, _a, out, key=key: calls.update([key] * (first(out).shape[1] > FEW))
        )
        for key, module in modules.items()
    ]
    statistics_of(llama, sequences, blocks=blocks)
    for handle in handles:
        handle.remove()
    deepest = max(block.end for block in blocks)
    assert calls == dict.fromkeys(range(deepest), len(Batches(sequences, 8)))


def test_no_block_needs_no_pass(llama: Any) -> None:
    batches = Batches([[99_999]])
    assert collect(Decoder.of(llama), batches, []) == {}


def test_one_report_for_every_batch(llama: Any, sequences: Sequences) -> None:
    """Each says which share of the pass is done."""
    distances: list[float] = []
    moments: list[float] = []
    batches, decoder = Batches(sequences, 8), Decoder.of(llama)
    layer_distances(decoder, batches, report=distances.append)
    collect(decoder, batches, BLOCKS, Needs(), moments.append)
    shares = [step / len(batches) for step in range(1, len(batches) + 1)]
    assert distances == moments == pytest.approx(shares)


@pytest.mark.parametrize("fails", [False, True])
def test_model_is_as_before_after_a_pass(
    make_model: Callable[..., Any], sequences: Sequences, fails: bool
) -> None:
    model = make_model()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers, config = list(model.model.layers), model.config.to_dict()
    if fails:
        with pytest.raises(IndexError):
            statistics_of(model, [[99_999]])
    else:
        layer_distances(Decoder.of(model), Batches(sequences))
        statistics_of(model, sequences)
    assert list(model.model.layers) == layers
    assert model.config.to_dict() == config
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_activations_of_half_precision_are_summed_without_rounding(
    make_model: Callable[..., Any], sequences: Sequences, dtype: torch.dtype
) -> None:
    got = statistics_of(make_model().to(dtype), sequences)[Block(3, 7)]
    assert got.sample.mlp.dtype == dtype
    sample = TokenSample(*(t.double() for t in (got.sample.mlp, got.sample.before, got.sample.after)))
    assert len(sample) == got.tokens
    for kind in (Kind(), Kind(rows="relative")):
        scale = scale_of(kind, sample.before, sample.after)
        rows, change = sample.mlp * scale, (sample.after - sample.before) * scale
        assert scaled_error(got.moments[kind].gram, rows, rows) < 1e-6
        assert scaled_error(got.moments[kind].cross, rows, change) < 1e-6


def test_geometric_rows_fit_sinks_that_a_removed_layer_made(llama: Any, sequences: Sequences) -> None:
    block = Block(2, 4)
    with massive_first_tokens(llama):
        got = statistics_of(llama, sequences, blocks=[block])[block]
    before, after, inputs = (
        t.double() for t in (got.sample.before, got.sample.after, got.sample.inputs)
    )
    sinks = after.norm(dim=1) > 20 * after.norm(dim=1).median()
    assert int(sinks.sum()) == len(sequences)
    aligned = {}
    for rows in ("relative", "geometric"):
        moments = got.moments[Kind(of_input=True, rows=rows)]
        correction, _ = solve_ridge(moments.gram.clone(), moments.cross, 0.01)
        predicted = before + inputs @ correction
        aligned[rows] = torch.cosine_similarity(predicted[sinks], after[sinks], dim=1).mean()
    assert aligned["geometric"] > 5 * aligned["relative"]
