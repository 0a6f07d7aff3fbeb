"""Models that compute otherwise beyond some length: calibrated as if each sequence came by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig

import replaceme
from replaceme.calibration import Batch, Batches
from replaceme.decoder import Decoder
from replaceme.distances import Tokens, layer_distances
from replaceme.edit import Edit
from replaceme.evaluation import HeldBack
from replaceme.lengths import ALIKE, Lengths
from replaceme.selection import Block
from replaceme.solvers import make_solver

SWITCH = 16
ROPES: dict[str, dict[str, Any]] = {
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 16,
        "long_factor": [1.0 + i for i in range(16)],
        "original_max_position_embeddings": SWITCH,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}
Make = Callable[..., Any]


@pytest.fixture(params=ROPES)
def model(make_model: Make, request: pytest.FixtureRequest) -> Any:
    limit = SWITCH if request.param == "dynamic" else 64
    return make_model(
        "phi3" if request.param == "longrope" else "llama",
        rope_parameters=ROPES[request.param],
        max_position_embeddings=limit,
        original_max_position_embeddings=SWITCH,
        sliding_window=None,
        num_hidden_layers=5,
        num_attention_heads=2,
    )


@pytest.fixture
def sequences() -> list[list[int]]:
    """Around the switch, some of equal lengths; in no order."""
    generator = torch.Generator().manual_seed(1)
    counts = [40, 5, 17, 16, 15, 40, 3, 17, 30, 16, 8, 24]
    return [torch.randint(2, 500, (count,), generator=generator).tolist() for count in counts]


@torch.no_grad()
def loss_alone(model: Any, sequences: list[list[int]], fresh: Callable[[], Any]) -> float:
    """Nats per token by plain forwards of one sequence, each of a model that has seen no other."""
    total = 0.0
    for row in sequences:
        ids = torch.tensor([row])
        one = fresh()
        one.load_state_dict(model.state_dict())
        logs = one(input_ids=ids).logits[0, :-1].log_softmax(-1)
        total -= float(logs.gather(1, ids[0, 1:, None]).sum())
    return total / (sum(map(len, sequences)) - len(sequences))


def test_held_back_loss_is_that_of_each_sequence_by_itself(
    model: Any, sequences: list[list[int]]
) -> None:
    def fresh() -> Any:
        return type(model)(model.config).eval()

    wanted = loss_alone(model, sequences, fresh)
    decoder = Decoder.of(model)
    for size in (1, 4, 12):
        judge = HeldBack(decoder, Batches(sequences, size, lengths=decoder.lengths))
        assert judge.loss(Edit()) == pytest.approx(wanted, rel=1e-5)
    mixed = HeldBack(decoder, Batches(sequences, 12)).loss(Edit())
    assert mixed is not None
    assert abs(mixed - wanted) > 1e-3  # what one padded batch would give


def test_calibration_does_not_depend_on_its_batches(model: Any, sequences: list[list[int]]) -> None:
    found = [
        replaceme.calibrate(
            model, Batches(sequences, size), blocks=[(Block(2, 4),)], solvers=[make_solver("lstsq")]
        ).statistics[Block(2, 4)]
        for size in (1, 12)
    ]
    for kind, moments in found[0].moments.items():
        torch.testing.assert_close(found[1].moments[kind].gram, moments.gram, rtol=1e-4, atol=1e-4)
    assert torch.allclose(found[0].sample.after, found[1].sample.after, atol=1e-4)


@pytest.mark.parametrize("tokens", ["last", "all"])
def test_distances_do_not_depend_on_batches(
    model: Any, sequences: list[list[int]], tokens: Tokens
) -> None:
    decoder = Decoder.of(model)
    one, many = (
        layer_distances(decoder, Batches(sequences, size, lengths=decoder.lengths), tokens)
        for size in (1, 12)
    )
    mixed = layer_distances(decoder, Batches(sequences, 12), tokens)
    assert torch.allclose(one, many, atol=2e-5)  # arccos of almost 1
    assert not torch.allclose(one, mixed, atol=2e-4)


def test_model_forgets_the_longest_sequence_that_it_has_seen(make_model: Make) -> None:
    """Stretched frequencies stay for every later sequence that is no shorter than the limit."""
    model = make_model("llama", rope_parameters=ROPES["dynamic"], max_position_embeddings=SWITCH)
    decoder, short = Decoder.of(model), Batch.of([[*range(2, 22)]])
    reads = {"last": decoder.output(7)}
    before = decoder.run(short, reads, until=8)["last"]
    decoder.run(Batch.of([[*range(2, 90)]]), reads, until=8)
    assert torch.equal(decoder.run(short, reads, until=8)["last"], before)


def test_batches_hold_the_lengths_that_are_alike(sequences: list[list[int]]) -> None:
    batches = Batches(sequences, 4, lengths=Lengths((SWITCH,)))
    sides = [{int(length) > SWITCH for length in batch.lengths} for batch in batches]
    assert all(len(side) == 1 for side in sides)
    assert len(batches) == len(sides) == 4
    assert torch.cat([batch.ranks for batch in batches]).unique().numel() == batches.tokens


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        (ALIKE, [[3, 9, 5, 8]]),
        (Lengths((5,)), [[9, 8], [3, 5]]),
        (Lengths((5, 8)), [[9], [8], [3, 5]]),
        (Lengths((), 5), [[9], [8], [3, 5]]),
    ],
)
def test_groups(lengths: Lengths, groups: list[list[int]]) -> None:
    assert lengths.groups([3, 9, 5, 8], int) == groups


@pytest.mark.parametrize("rope", ["default", "linear", "yarn", "llama3"])
def test_ropes_that_heed_positions_alone_are_alike(rope: str) -> None:
    config = AutoConfig.for_model("llama")
    config.rope_parameters = {"rope_type": rope, "original_max_position_embeddings": 8}
    assert Lengths.of(config) == ALIKE


def test_ropes_of_several_kinds_of_layers_are_all_read() -> None:
    config = AutoConfig.for_model("llama", max_position_embeddings=64)
    config.rope_parameters = {"full_attention": ROPES["longrope"], "sliding_attention": ROPES["dynamic"]}
    assert Lengths.of(config) == Lengths((SWITCH,), 64)
