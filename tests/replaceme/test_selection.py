"""Which blocks are chosen."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

import replaceme
from replaceme.calibration import Batches, tokenize
from replaceme.errors import InputError
from replaceme.selection import (
    Block,
    check_blocks,
    check_count,
    merge_adjacent,
)
from replaceme.selectors import SELECTORS, Evidence, Selection, Selector
from replaceme.selectors.angular import Angular
from replaceme.selectors.perplexity import Perplexity
from tests import families

Make = Callable[..., Any]
LAYERS = 9


def evidence(
    distances: Tensor, loss: Callable[[tuple[Block, ...]], float] = lambda _: 0.0, keep: Any = ()
) -> Evidence:
    """Distances and losses of a model that needs the layers ``keep``."""

    def check(blocks: tuple[Block, ...]) -> None:
        for block in blocks:
            if needed := {*range(*block)} & {*keep}:
                raise InputError(f"the model needs the layers {needed}")

    return Evidence(distances, loss, check)


@pytest.fixture(scope="module")
def distances() -> Tensor:
    """Without ties, so that there is one right answer."""
    noise = torch.rand(LAYERS, LAYERS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return noise + noise.mT


def blocks_of(size: int, layers: int = LAYERS) -> list[Block]:
    return [Block(start, start + size) for start in range(1, layers - size + 1)]


def overlap(one: Block, other: Block) -> bool:
    return bool({*range(*one)} & {*range(*other)})


# distances


@pytest.mark.parametrize("count", range(1, LAYERS))
def test_closest_block_reads_the_diagonal_of_its_count(distances: Tensor, count: int) -> None:
    wanted = sorted((float(distances[i, i + count]), i + 1) for i in range(LAYERS - count))
    choice = Angular().choose(evidence(distances), count)
    (block,) = choice.blocks
    assert (choice.score, block.start) == wanted[0]
    assert block.size == count
    if count == LAYERS - 1:
        assert choice.runner_up is choice.runner_up_score is None
    else:
        assert choice.runner_up is not None
        assert (choice.runner_up_score, choice.runner_up[0].start) == wanted[1]


@pytest.mark.parametrize("count, number", [(2, 2), (4, 2), (6, 2), (3, 3), (6, 3)])
def test_several_blocks_are_taken_in_order_of_distance(
    distances: Tensor, count: int, number: int
) -> None:
    def distance(block: Block) -> float:
        return float(distances[block.start - 1, block.end - 1])

    ranked = sorted(blocks_of(count // number), key=distance)
    taken: list[Block] = []
    while len(taken) < number:
        taken.append(next(b for b in ranked if not any(overlap(b, t) for t in taken)))
    choice = Angular().choose(evidence(distances), count, number)
    assert choice.blocks == merge_adjacent(taken)
    assert choice.score == pytest.approx(sum(map(distance, taken)))
    second = [b for b in ranked if b not in taken and not any(overlap(b, t) for t in taken[:-1])]
    if second:
        assert choice.runner_up == merge_adjacent([*taken[:-1], second[0]])
        assert choice.runner_up_score == pytest.approx(sum(map(distance, [*taken[:-1], second[0]])))
    else:
        assert choice.runner_up is None


@pytest.mark.parametrize("selector", [Angular, Perplexity])
def test_adjacent_blocks_are_made_one(selector: type[Selector]) -> None:
    distances = torch.ones(LAYERS, LAYERS, dtype=torch.float64)
    distances[2, 3] = distances[3, 4] = 0.1  # layers 3 and 4
    distances[5, 6] = 0.2  # layer 6

    def loss(blocks: tuple[Block, ...]) -> float:
        assert blocks == merge_adjacent(blocks)
        return -sum({3: 3.0, 4: 2.0, 6: 1.0}.get(i, 0.0) for b in blocks for i in range(*b))

    choice = selector().choose(evidence(distances, loss), 2, 2)
    assert choice.blocks == (Block(3, 5),)
    assert choice.runner_up == (Block(3, 4), Block(6, 7))


def test_merging_keeps_the_layers() -> None:
    assert merge_adjacent([Block(5, 7), Block(1, 2), Block(2, 4)]) == (Block(1, 4), Block(5, 7))
    assert merge_adjacent([]) == ()


# loss


def test_lowest_loss_is_found_among_the_closest_blocks(
    distances: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = dict(zip(blocks_of(3), (5.0, 3.0, 4.0, 1.0, 2.0, 6.0), strict=True))
    asked: list[Block] = []

    def loss(blocks: tuple[Block, ...]) -> float:
        asked.extend(blocks)
        return losses[blocks[0]]

    def distance(block: Block) -> float:
        return float(distances[block.start - 1, block.end - 1])

    for tried in (1, 3, 6):
        asked.clear()
        closest = sorted(blocks_of(3), key=distance)[:tried]
        first, *others = sorted(closest, key=losses.__getitem__)
        monkeypatch.setattr(Perplexity, "tried", tried)
        choice = Perplexity().choose(evidence(distances, loss), 3)
        assert sorted(asked) == sorted(closest)
        assert (choice.blocks, choice.score) == ((first,), losses[first])
        assert choice.runner_up == ((others[0],) if others else None)
        assert choice.runner_up_score == (losses[others[0]] if others else None)


def test_every_further_block_is_judged_together_with_those_before(distances: Tensor) -> None:
    """Alone layer 2 is best, then 5; but with 2 gone 7 costs least."""

    def loss(blocks: tuple[Block, ...]) -> float:
        gone = {i for b in blocks for i in range(*b)}
        return {frozenset({2}): 1.0, frozenset({5}): 1.1, frozenset({2, 7}): 2.0}.get(
            frozenset(gone), 3.0 if gone > {2} else 9.0
        )

    choice = Perplexity().choose(evidence(distances, loss), 2, 2)
    assert choice.blocks == (Block(2, 3), Block(7, 8))
    assert (choice.score, choice.runner_up_score) == (2.0, 3.0)
    assert choice.runner_up is not None and {2} < {i for b in choice.runner_up for i in range(*b)}


# layers that have to stay


@pytest.mark.parametrize("selector", SELECTORS)
def test_best_of_the_blocks_that_can_be_removed_is_taken(distances: Tensor, selector: str) -> None:
    """A layer that has to stay is in the best block, and in its runner-up."""

    def loss(blocks: tuple[Block, ...]) -> float:
        return sum(float(distances[b.start - 1, b.end - 1]) for b in blocks)

    ranked = sorted(blocks_of(2), key=lambda block: loss((block,)))
    needed = {*range(*ranked[0])} | {*range(*ranked[1])}
    first, second, *_ = (block for block in ranked if not needed & {*range(*block)})
    choice = SELECTORS[selector]().choose(evidence(distances, loss, needed), 2)
    assert (choice.blocks, choice.runner_up) == ((first,), (second,))
    assert (choice.score, choice.runner_up_score) == (loss((first,)), loss((second,)))


@pytest.mark.parametrize("selector", SELECTORS)
def test_refused_block_is_no_runner_up_and_none_at_all_is_an_error(
    distances: Tensor, selector: str
) -> None:
    choose = SELECTORS[selector]().choose
    alone = choose(evidence(distances, keep=range(3, LAYERS)), 2)
    assert alone.blocks == (Block(1, 3),)
    assert alone.runner_up is alone.runner_up_score is None
    with pytest.raises(InputError, match=r"no block of 5 layers can be removed\. the model needs"):
        choose(evidence(distances, keep=[4]), 5)
    with pytest.raises(InputError, match=r"no block of 2 layers can be removed"):
        choose(evidence(distances, keep=range(3, LAYERS)), 4, 2)


def test_blocks_are_tried_one_after_the_other_until_two_can_be_removed(distances: Tensor) -> None:
    tried: list[tuple[Block, ...]] = []
    Angular().choose(Evidence(distances, lambda _: 0.0, tried.append), 2)
    assert len(tried) == 2


# on a model


@torch.no_grad()
def loss_without(model: Any, sequences: list[list[int]], gone: set[int]) -> float:
    """Cross entropy per token of a model whose layers ``gone`` return their input."""
    layers = model.model.layers
    handles = [layers[i].register_forward_hook(lambda _m, args, _o: args[0]) for i in gone]
    total, count = 0.0, 0
    for ids in sequences:
        logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        total -= float(logits[range(len(ids) - 1), ids[1:]].sum())
        count += len(ids) - 1
    for handle in handles:
        handle.remove()
    return total / count


@pytest.fixture(scope="module")
def fitted(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """The sequences of the texts that are not held back."""
    return Batches(tokenize(texts[:30], tokenizer, 48)).held_back(4096)[0].sequences


def choose(model: Any, tokenizer: Any, texts: list[str], count: int, **settings: Any) -> Any:
    batches = Batches(tokenize(texts[:30], tokenizer, 48))
    selection = Selection(**settings)
    return replaceme.calibrate(model, batches, counts=[count], selection=selection).choices[count]


@pytest.mark.parametrize("selector", ["angular", "angular-mean"])
def test_angular_selectors_take_the_block_of_smallest_angle(
    llama: Any,
    tokenizer: Any,
    texts: list[str],
    fitted: list[list[int]],
    states_alone: Any,
    selector: str,
) -> None:
    states = states_alone(llama, fitted)
    tokens = states.last_tokens if selector == "angular" else range(len(states.normed))
    ends = [layer[tokens] for layer in states.layers]
    angles = {
        (block,): float(
            torch.cosine_similarity(ends[block.start - 1], ends[block.end - 1]).arccos().mean()
        )
        for block in blocks_of(3, 8)
    }
    choice = choose(llama, tokenizer, texts, 3, selector=selector)
    assert [choice.blocks, choice.runner_up] == sorted(angles, key=angles.__getitem__)[:2]
    assert choice.score == pytest.approx(angles[choice.blocks] / torch.pi, abs=1e-6)
    assert choice.runner_up_score == pytest.approx(angles[choice.runner_up] / torch.pi, abs=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_perplexity_takes_the_block_whose_removal_costs_least(
    llama: Any, tokenizer: Any, texts: list[str], fitted: list[list[int]], count: int
) -> None:
    losses = {(b,): loss_without(llama, fitted, {*range(*b)}) for b in blocks_of(count, 8)}
    choice = choose(llama, tokenizer, texts, count, selector="perplexity")
    assert [choice.blocks, choice.runner_up] == sorted(losses, key=losses.__getitem__)[:2]
    assert choice.score == pytest.approx(losses[choice.blocks], rel=1e-5)
    assert choice.runner_up_score == pytest.approx(losses[choice.runner_up], rel=1e-5)


def test_perplexity_takes_several_blocks_one_after_the_other(
    llama: Any, tokenizer: Any, texts: list[str], fitted: list[list[int]]
) -> None:
    alone = {i: loss_without(llama, fitted, {i}) for i in range(1, 8)}
    first = min(alone, key=alone.__getitem__)
    pairs = {i: loss_without(llama, fitted, {first, i}) for i in range(1, 8) if i != first}
    second = min(pairs, key=pairs.__getitem__)
    choice = choose(llama, tokenizer, texts, 2, selector="perplexity", num_blocks=2)
    assert {i for block in choice.blocks for i in range(*block)} == {first, second}
    assert choice.score == pytest.approx(pairs[second], rel=1e-5)


@pytest.mark.parametrize("selector", ["angular", "angular-mean", "perplexity"])
def test_prune_says_what_was_chosen_and_the_runner_up(
    make_model: Make, tokenizer: Any, texts: list[str], selector: str
) -> None:
    model = make_model()
    layers = list(model.model.layers)
    done = replaceme.prune(
        model, tokenizer, texts[:20], layers=4, num_blocks=2, solver="uidl", selector=selector
    )
    assert done.choice is not None
    gone = {i for block in done.blocks for i in range(*block)}
    assert done.choice.blocks == done.blocks
    assert len(gone) == 4
    assert list(model.model.layers) == [layers[i] for i in range(8) if i not in gone]
    assert done.choice.runner_up is not None
    assert done.choice.runner_up_score is not None
    assert done.choice.runner_up_score >= done.choice.score


@pytest.fixture
def hybrid() -> Any:
    """Convolutions, and attention in layer 2 alone, which hardly changes the states."""
    kinds = ["conv", "conv", "full_attention", "conv", "conv", "conv"]
    sizes = {"intermediate_size": 48, "num_key_value_heads": 1}
    model = families.small("lfm2", layer_types=kinds, **sizes)
    layer = model.model.layers[2]
    for projection in (layer.self_attn.out_proj, layer.feed_forward.w2):
        projection.weight.data *= 1e-3
    return model


@pytest.mark.slow
@pytest.mark.parametrize("selector", SELECTORS)
def test_last_layer_that_the_cache_needs_stays_although_it_is_the_closest(
    hybrid: Any, tokenizer: Any, texts: list[str], fitted: list[list[int]], selector: str
) -> None:
    losses = {i: loss_without(hybrid, fitted, {i}) for i in range(1, 6)}
    choice = choose(hybrid, tokenizer, texts, 1, selector=selector)
    assert choice.blocks != (Block(2, 3),) != choice.runner_up
    if selector == "perplexity":
        (block,) = choice.blocks
        assert block.start == min(losses.keys() - {2}, key=losses.__getitem__)
    batches = Batches(tokenize(texts[:30], tokenizer, 48))
    distances = replaceme.calibrate(hybrid, batches, counts=[1], selection=Selection(selector)).distances
    assert distances.diagonal(1).argmin() == 2 - 1
    with pytest.raises(InputError, match="without the layers 2:3 it does not generate: none stays"):
        replaceme.calibrate(hybrid, batches, blocks=[(Block(2, 3),)])
    with pytest.raises(InputError, match=r"no block of 5 layers can be removed.* 1:6 it does not gen"):
        choose(hybrid, tokenizer, texts, 5, selector=selector)


# errors


@pytest.mark.parametrize("count", [-1, 0, 6, 7])
def test_count_that_does_not_fit_is_refused(count: int) -> None:
    with pytest.raises(InputError, match="allowed are 1 to 5"):
        check_count(count, 6)
    for selector in SELECTORS.values():
        with pytest.raises(InputError, match="allowed are 1 to 5"):
            selector().choose(evidence(torch.zeros(6, 6)), count)


def test_count_that_cannot_be_divided_is_refused() -> None:
    message = (
        r"layers: 5 layers cannot be removed in 2 blocks of the same size; allowed are multiples of 2"
    )
    with pytest.raises(InputError, match=message):
        Angular().choose(evidence(torch.zeros(8, 8)), 5, 2)


def test_no_room_for_so_many_blocks_is_an_error() -> None:
    """The block [2, 4), which is best, leaves no room for another of two layers."""
    distances = torch.ones(5, 5, dtype=torch.float64)
    distances[1, 3] = 0.0
    best = evidence(distances, lambda blocks: float(blocks != (Block(2, 4),)))
    for selector in (Angular, Perplexity):
        with pytest.raises(InputError, match=r"there is no room for 2 blocks of 2 layers\."):
            selector().choose(best, 4, 2)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"selector": "anglar"}, r"unknown selector 'anglar'; did you mean 'angular'\? Selectors are "),
        ({"selector": "zzz"}, r"unknown selector 'zzz'\. Selectors are angular, angular-mean, perplex"),
        ({"num_blocks": 0}, r"num_blocks is at least 1; got 0\."),
    ],
)
def test_impossible_selection_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Selection(**settings)


@pytest.mark.parametrize("block", [(0, 2), (3, 3), (5, 4), (3, 9), (-1, 2)])
def test_block_that_does_not_fit_is_refused(block: tuple[int, int]) -> None:
    start, end = block
    with pytest.raises(InputError, match=f"block '{start}:{end}' does not fit a model of 8 layers"):
        check_blocks([Block(start, end)], 8)


@pytest.mark.parametrize("blocks", combinations([Block(4, 6), Block(1, 3), Block(2, 5)], 2), ids=str)
def test_blocks_that_overlap_or_are_out_of_order_are_refused(blocks: tuple[Block, ...]) -> None:
    with pytest.raises(InputError, match="overlap or are not in ascending order"):
        check_blocks(blocks, 8)
