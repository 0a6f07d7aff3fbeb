"""Requests as trees: each of them can be read off its tree again, and nothing of it twice."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.scoring.trees import Request, Tree, TreeBatch, grow, make_batches

HUGE = 2**31
checked = settings(max_examples=100)


@st.composite
def requests(draw: st.DrawFn, longest: int = 8) -> Request:
    """Over three tokens, so that requests begin alike, contain each other, and occur twice."""
    whole = draw(st.lists(st.integers(0, 2), min_size=2, max_size=longest + 1))
    goals = draw(st.integers(1, len(whole) - 1))
    return Request(tuple(whole[:-1]), tuple(whole[-goals:]))


def request_lists(most: int = 16) -> st.SearchStrategy[list[Request]]:
    return st.lists(requests(), min_size=1, max_size=most)


attentions = st.sampled_from([0.0, 0.01, 0.1, 0.5, 2.0])
limits = st.sampled_from([1, 3, 6, 12, HUGE])
windows = st.integers(1, 9)


def prefixes(asked: Iterable[Request]) -> set[tuple[int, ...]]:
    return {request.tokens[:end] for request in asked for end in range(1, len(request.tokens) + 1)}


def cost(nodes: int, attention: float) -> float:
    return nodes + attention * nodes**2


def line(*tokens: int, goals: int = 1) -> Request:
    """A request that reads ``tokens``."""
    return Request(tokens, (*tokens[len(tokens) - goals + 1 :], 9))


def seen_by(batch: TreeBatch, row: int, node: int, window: int | None = None) -> list[int]:
    found: list[int] = batch.seen(window)[row, node].nonzero().flatten().tolist()
    return found


@given(request_lists(), attentions, limits)
@checked
def test_every_distinct_request_is_in_exactly_one_tree(
    asked: list[Request], attention: float, limit: int
) -> None:
    trees = grow(asked, attention, limit)
    found = [request for tree in trees for request in tree.tails]
    assert sorted(found) == sorted(set(asked))


@given(request_lists(), attentions, limits)
@checked
def test_a_tree_has_a_node_for_each_distinct_prefix(
    asked: list[Request], attention: float, limit: int
) -> None:
    for tree in grow(asked, attention, limit):
        assert len(tree) == len(tree.tokens) == len(tree.depths) == len(tree.ends)
        assert len(tree) == len(prefixes(tree.tails))


@given(request_lists(), attentions, limits)
@checked
def test_ancestors_of_a_tail_spell_its_request(
    asked: list[Request], attention: float, limit: int
) -> None:
    trees = grow(asked, attention, limit)
    batch = TreeBatch(trees)
    for row, tree in enumerate(trees):
        for request, tail in tree.tails.items():
            path = seen_by(batch, row, tail[-1])
            assert path[-len(request.targets) :] == tail
            assert [tree.tokens[node] for node in path] == list(request.tokens)
            assert [tree.depths[node] for node in path] == [*range(len(path))]
            assert batch.ids[row, path].tolist() == list(request.tokens)
            assert batch.positions[row, path].tolist() == [*range(len(path))]


@given(request_lists(), attentions, limits)
@checked
def test_descendants_of_a_node_stand_right_behind_it(
    asked: list[Request], attention: float, limit: int
) -> None:
    for tree in grow(asked, attention, limit):
        assert tree.depths[0] == 0
        for node, (depth, end) in enumerate(zip(tree.depths, tree.ends, strict=True)):
            deeper = [other for other in range(node + 1, end) if tree.depths[other] > depth]
            assert deeper == [*range(node + 1, end)]
            assert end == len(tree) or tree.depths[end] <= depth
            assert node == 0 or depth <= tree.depths[node - 1] + 1


@given(request_lists(), attentions, limits)
@checked
def test_requests_join_a_tree_exactly_where_that_pays_and_fits(
    asked: list[Request], attention: float, limit: int
) -> None:
    before: list[Request] = []
    for tree in grow(asked, attention, limit):
        for number, request in enumerate(tree.tails):
            joined = len(prefixes([*before, request]))
            apart = cost(len(prefixes(before)), attention) + cost(len(request.tokens), attention)
            pays = bool(before) and joined <= limit and cost(joined, attention) <= apart
            assert pays == (number > 0)
            before = [*before, request] if pays else [request]


@given(request_lists(), attentions, limits)
@checked
def test_only_a_single_request_exceeds_the_limit(
    asked: list[Request], attention: float, limit: int
) -> None:
    for tree in grow(asked, attention, limit):
        assert len(tree) <= limit or len({request.tokens for request in tree.tails}) == 1


@given(request_lists(), st.randoms(use_true_random=False))
@checked
def test_order_and_duplicates_do_not_matter(asked: list[Request], random: Random) -> None:
    shuffled = asked * 2
    random.shuffle(shuffled)
    assert grow(shuffled, 0.1, 12) == grow(asked, 0.1, 12)


@pytest.mark.parametrize(("attention", "trees"), [(0.4999, 1), (0.5, 1), (0.5001, 2)])
def test_two_requests_join_up_to_equal_cost(attention: float, trees: int) -> None:
    """At 0.5: 6 + 0.5 · 6² = 24 together, 2 · (4 + 0.5 · 4²) = 24 apart."""
    assert len(grow([line(1, 2, 3, 4), line(1, 2, 5, 6)], attention, HUGE)) == trees


@pytest.mark.parametrize(("attention", "trees"), [(0.2499, 1), (0.25, 1), (0.2501, 2)])
def test_a_third_request_is_weighed_against_the_whole_tree(attention: float, trees: int) -> None:
    """At 0.25: 12 + 0.25 · 12² = 48 together, 2 · (8 + 0.25 · 8²) = 48 apart."""
    two = [line(1, 1, 1, 1, 2, 2), line(1, 1, 1, 1, 3, 3)]
    asked = [*two, line(1, 1, 1, 1, 4, 4, 4, 4)]
    grown = grow(asked, attention, HUGE)
    assert len(grown) == trees
    assert [*grown[0].tails][:2] == two


@pytest.mark.parametrize(("limit", "sizes"), [(6, [6]), (5, [4, 4]), (4, [4, 4]), (1, [4, 4])])
def test_the_limit_is_the_last_size_that_is_allowed(limit: int, sizes: list[int]) -> None:
    grown = grow([line(1, 2, 3, 4), line(1, 2, 5, 6)], 0.0, limit)
    assert [len(tree) for tree in grown] == sizes


@pytest.mark.parametrize(("attention", "trees"), [(0.0, 1), (0.01, 2)])
def test_requests_with_nothing_in_common_join_only_where_attention_is_free(
    attention: float, trees: int
) -> None:
    assert len(grow([line(1, 2), line(3, 4)], attention, HUGE)) == trees


def test_other_targets_after_the_same_tokens_take_no_nodes() -> None:
    asked = [Request((1, 2, 3), (4,)), Request((1, 2, 3), (5,)), Request((1, 2, 3), (3, 5))]
    (tree,) = grow(asked, 100.0, 3)
    assert tree.tokens == [1, 2, 3]
    assert tree.tails == {asked[0]: [2], asked[1]: [2], asked[2]: [1, 2]}


def test_no_requests_are_no_trees() -> None:
    assert grow([], 0.1, 8) == []
    assert [*make_batches([], 8)] == []


def test_a_request_splits_into_context_and_continuation() -> None:
    assert Request((1, 2, 3), (3, 4)).split == ([1, 2], [3, 4])
    assert Request((1,), (2,)).split == ([1], [2])


@given(st.lists(request_lists(4), max_size=12), st.integers(1, 64))
@checked
def test_batches_hold_all_trees_by_size_and_as_many_as_the_budget_allows(
    asked: list[list[Request]], budget: int
) -> None:
    trees = [tree for some in asked for tree in grow(some, 0.0, HUGE)]
    batches = [*make_batches(iter(trees), budget)]
    flat = [tree for batch in batches for tree in batch]
    assert [len(tree) for tree in flat] == sorted(map(len, trees), reverse=True)
    assert sorted(map(id, flat)) == sorted(map(id, trees))
    for batch in batches:
        padded = max(map(len, batch)) * len(batch)
        assert padded <= budget or len(batch) == 1
    for batch in batches[:-1]:
        assert len(batch[0]) * (len(batch) + 1) > budget


def test_a_batch_may_be_as_large_as_the_budget() -> None:
    trees = grow([line(1, 1), line(2, 2), line(3, 3)], 1.0, HUGE)
    assert [len(batch) for batch in make_batches(trees, 6)] == [3]
    assert [len(batch) for batch in make_batches(trees, 5)] == [2, 1]
    assert [len(batch) for batch in make_batches(trees, 1)] == [1, 1, 1]


def batch_of(asked: list[Request]) -> tuple[list[Tree], TreeBatch]:
    trees = grow(asked, 0.1, 12)
    return trees, TreeBatch(trees)


@given(request_lists())
@checked
def test_requests_of_a_batch_are_those_of_its_trees_in_order(asked: list[Request]) -> None:
    trees, batch = batch_of(asked)
    assert batch.requests == [request for tree in trees for request in tree.tails]
    assert batch.ids.shape == batch.positions.shape == (len(trees), max(map(len, trees)))
    assert batch.width == batch.ids.shape[1]
    assert batch.ids.dtype == batch.positions.dtype == torch.int64


@given(request_lists())
@checked
def test_each_target_belongs_to_its_request_and_is_predicted_after_what_comes_before_it(
    asked: list[Request],
) -> None:
    _, batch = batch_of(asked)
    nodes, which = batch.heads
    predicting = nodes[which]
    assert len(predicting) == len(batch.targets) == len(batch.owners)
    for number, request in enumerate(batch.requests):
        own = (batch.owners == number).nonzero().flatten()
        assert batch.targets[own].tolist() == list(request.targets)
        whole = [*request.tokens, request.targets[-1]]
        for offset, node in enumerate(predicting[own].tolist()):
            row, column = divmod(node, batch.width)
            read = batch.ids[row, seen_by(batch, row, column)].tolist()
            assert read == whole[: len(whole) - len(request.targets) + offset]


@given(request_lists())
@checked
def test_heads_are_distinct_and_in_ascending_order(asked: list[Request]) -> None:
    _, batch = batch_of(asked)
    nodes, which = batch.heads
    assert nodes.tolist() == sorted(set(nodes.tolist()))
    assert set(which.tolist()) == {*range(len(nodes))}
    assert batch.owners.tolist() == sorted(batch.owners.tolist())


@given(request_lists(), st.none() | windows)
@checked
def test_padding_sees_itself_and_is_seen_by_nothing_else(
    asked: list[Request], window: int | None
) -> None:
    trees, batch = batch_of(asked)
    seen = batch.seen(window)
    assert seen.shape == (len(trees), batch.width, batch.width)
    for row, tree in enumerate(trees):
        for number in range(len(tree), batch.width):
            assert seen[row, number].nonzero().flatten().tolist() == [number]
            assert seen[row, :, number].nonzero().flatten().tolist() == [number]


@given(request_lists(), windows)
@checked
def test_a_window_leaves_the_last_ancestors_and_the_token_itself(
    asked: list[Request], window: int
) -> None:
    trees, batch = batch_of(asked)
    for row, tree in enumerate(trees):
        for node in range(len(tree)):
            path = seen_by(batch, row, node)
            assert path[-1] == node
            assert seen_by(batch, row, node, window) == path[-window:]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@given(asked=request_lists(), window=st.none() | windows)
@checked
def test_the_mask_is_zero_where_a_token_sees_and_lowest_elsewhere(
    dtype: torch.dtype, asked: list[Request], window: int | None
) -> None:
    _, batch = batch_of(asked)
    mask, seen = batch.mask(dtype, window), batch.seen(window)
    assert mask.dtype == dtype
    assert mask.shape == (len(seen), 1, batch.width, batch.width)
    assert (mask[:, 0][seen] == 0).all()
    assert (mask[:, 0][~seen] == torch.finfo(dtype).min).all()


def test_the_mask_of_a_small_tree() -> None:
    batch = TreeBatch(grow([line(1, 2, 3), line(1, 4), line(5)], 0.01, 4))
    assert batch.ids.tolist() == [[1, 2, 3, 4], [5, 0, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 1], [0, 0, 0, 0]]
    assert batch.seen().int().tolist() == [
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]],
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    ]
    assert batch.seen(2)[0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]]
