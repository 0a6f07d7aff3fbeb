"""The memory that healing takes, told from a checkpoint's files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from replaceme.checkpoint import Checkpoint
from replaceme.decoder import Decoder
from replaceme.edit import Edit
from replaceme.errors import InputError
from replaceme.healing import Training
from replaceme.healing.need import Sizes, check_need
from replaceme.healing.pair import Pair
from replaceme.healing.parts import choose
from replaceme.healing.trained import open_parameters
from replaceme.io import loading
from replaceme.selection import Block

BLOCKS = [(Block(1, 3),), (Block(3, 5),), (Block(2, 3), Block(5, 7))]
PARTS = ["projection", "mlp", "lora", "tail", "all"]


@pytest.fixture(scope="module")
def sizes(tiny: Path) -> Sizes:
    return Sizes.of(Checkpoint.open(str(tiny)))


def test_sizes_are_those_of_the_model(sizes: Sizes) -> None:
    """Of the small Llama: 8 layers, width 64, MLP 96, 2 heads of 32, 1 of keys and values."""
    attention, mlp = 64 * (64 + 32 + 32 + 64), 3 * 64 * 96
    assert sizes.layer == attention + mlp + 2 * 64
    assert sizes.output == 64 * 96
    assert sizes.sides == (64 + 64) * 2 + (64 + 32) * 2 + (64 + 96) * 3
    assert sizes.head == 512 * 64
    assert sizes.whole == 8 * sizes.layer + 2 * 512 * 64 + 64
    assert (sizes.layers, sizes.width) == (8, 64)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("blocks", BLOCKS)
def test_trained_numbers_are_those_that_are_opened(
    sizes: Sizes, tiny: Path, part: Any, blocks: tuple[Block, ...]
) -> None:
    teacher = Decoder.of(AutoModelForCausalLM.from_pretrained(tiny))
    pair, training = Pair.of_edit(teacher, Edit(blocks)), Training(train=part)
    trained = open_parameters(pair, training, choose(pair, training))
    final_norm = 64 if part == "all" else 0
    assert trained.numbers == sizes.count_trained(training, blocks) + final_norm


@pytest.mark.parametrize(
    ("change", "lower"),
    [
        ({"batch_size": 4}, True),
        ({"accumulate": 4}, True),
        ({"checkpointing": True}, True),
        ({"train": "projection"}, True),
        ({"train": "all"}, False),
        ({"batch_size": 16}, False),
    ],
)
def test_what_is_to_lower_the_need_does(sizes: Sizes, change: dict[str, Any], lower: bool) -> None:
    usual, changed = (
        sizes.compute_need(Training(**told), 256, BLOCKS[0], half=True, device="cuda").whole
        for told in ({}, change)
    )
    assert (changed < usual) is lower


def test_7b_fits_on_a_card_of_80_gb() -> None:
    """Llama-2-7B: 32 layers, width 4096, MLP 11008, 32 heads, 32,000 tokens."""
    layer, sides = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096, 4 * 2 * 4096 + 3 * (4096 + 11008)
    whole, head = 6_738_415_616, 32_000 * 4096
    assert whole == 32 * layer + 2 * head + 4096
    llama = Sizes(whole, 32, layer, 4096 * 11008, sides, head, 4096)

    def need(part: Any) -> int:
        training = Training(train=part)
        return llama.compute_need(training, 256, (Block(1, 9),), half=True, device="cuda").whole

    assert max(map(need, ("projection", "mlp", "lora"))) < 80e9 < need("all")


def test_training_that_does_not_fit_is_refused_with_what_takes_less(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "device_memory", lambda _: 10**9)
    told = re.escape(
        "training all takes about 1.2 GB on 'cpu', which has 1.0 GB; less is taken by a smaller"
    )
    training = Training(train="all")
    need = Sizes.of(Checkpoint.open(str(tiny))).compute_need(training, 64, BLOCKS[0], False, "cpu")
    with pytest.raises(InputError, match=told):
        check_need(need, training, "cpu")


@pytest.mark.parametrize(
    ("change", "memory", "advised", "not_advised"),
    [
        ({}, None, ["checkpointing", "projection", "the 'memory' of a suite"], ["allow more"]),
        ({"train": "lora"}, 10, ["checkpointing"], ["'memory'", "projection"]),
        ({"train": "projection"}, 10, ["allow more 'memory'"], ["lora", "checkpointing"]),
        ({"checkpointing": True}, None, ["'train: projection' or 'lora'"], ["checkpointing"]),
    ],
)
def test_what_is_advised_takes_less(
    sizes: Sizes,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    memory: int | None,
    advised: list[str],
    not_advised: list[str],
) -> None:
    monkeypatch.setattr(loading, "device_memory", lambda _: 10**9)
    training = Training(**change)
    need = sizes.compute_need(training, 64, BLOCKS[0], False, "cpu")
    with pytest.raises(InputError, match="takes about") as error:
        check_need(need, training, "cpu", memory)
    assert all(words in str(error.value) for words in advised)
    assert not any(words in str(error.value) for words in not_advised)


def test_layers_are_brought_where_the_model_does_not_fit_and_the_part_allows_it(sizes: Sizes) -> None:
    for part in PARTS:
        need = sizes.compute_need(Training(train=part), 64, BLOCKS[1], False, "cpu")
        assert not need.is_brought(None) and not need.is_brought(need.whole)
        assert need.is_brought(need.whole - 1) is (part != "lora")
        assert need.within(need.whole) == need.whole
        if need.brought:
            assert need.passing < need.within(need.whole - 1) == need.brought < need.whole
