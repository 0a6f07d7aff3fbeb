"""Distances between layers → the blocks of layers to remove."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from replaceme.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import Tensor


class Block(NamedTuple):
    """Decoder layers ``start … end-1`` (0-based, half-open as a Python slice) to remove.

    The transform that stands in for them lives in layer ``start-1``, so ``start`` is at least 1.
    """

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start

    def __str__(self) -> str:
        return f"[{self.start}, {self.end})"


SELECTORS = {
    "angular": "smallest angle between the states before and after, at the last token of each sample",
    "angular-mean": "the same, mean over all tokens",
    "perplexity": "lowest loss after plain removal, by a short greedy search",
}


@dataclass(frozen=True)
class Selection:
    """How blocks are chosen for a layer count.

    Attributes:
        selector: a key of ``SELECTORS``.
        num_blocks: in how many blocks of the same size the layers are removed.
        merge: make adjacent blocks one.

    Raises:
        InputError: no such selector, or no block.
    """

    selector: str = "angular"
    num_blocks: int = 1
    merge: bool = True

    def __post_init__(self) -> None:
        if self.selector not in SELECTORS:
            raise InputError(
                f"unknown selector {self.selector!r}{nearest(self.selector, list(SELECTORS))} Selectors "
                f"are {', '.join(SELECTORS)}."
            )
        if self.num_blocks < 1:
            raise InputError(f"num_blocks is at least 1; got {self.num_blocks}.")


class Choice(NamedTuple):
    """The chosen blocks in ascending order with their score, and the second best.

    ``score`` is what the selector minimised: the sum of the blocks' distances, or a loss. The
    runner-up is ``None`` where there was no other choice.
    """

    blocks: tuple[Block, ...]
    score: float
    runner_up: tuple[Block, ...] | None
    runner_up_score: float | None


def check_count(count: int, num_layers: int, where: str = "layers", num_blocks: int = 1) -> None:
    """Refuse a number of layers that cannot be removed from ``num_layers``.

    Raises:
        InputError: unless ``1 <= count <= num_layers - 1`` (the layer before a block must stay), and
            ``num_blocks`` blocks of the same size make up ``count``.
    """
    if not 1 <= count < num_layers:
        raise InputError(
            f"{where}: {count} layers cannot be removed from a model of {num_layers}; allowed are 1 "
            f"to {num_layers - 1}."
        )
    if count % num_blocks:
        raise InputError(
            f"{where}: {count} layers cannot be removed in {num_blocks} blocks of the same size; "
            f"allowed are multiples of {num_blocks}."
        )


def check_blocks(blocks: Sequence[Block], num_layers: int) -> None:
    """Refuse blocks that do not lie inside a model of ``num_layers``, or overlap.

    Raises:
        InputError: unless ``1 <= start < end <= num_layers`` for each, and each starts where the one
            before has ended, or later.
    """
    for block in blocks:
        if not 1 <= block.start < block.end <= num_layers:
            raise InputError(
                f"block '{block.start}:{block.end}' does not fit a model of {num_layers} layers: START "
                f"is at least 1, END is larger than START and at most {num_layers} (END itself is kept)."
            )
    for block, following in pairwise(blocks):
        if following.start < block.end:
            raise InputError(
                f"the blocks {block} and {following} overlap or are not in ascending order."
            )


def merge_adjacent(blocks: Iterable[Block]) -> tuple[Block, ...]:
    """The same layers in ascending order, with blocks that touch made one."""
    merged: list[Block] = []
    for block in sorted(blocks):
        if merged and merged[-1].end == block.start:
            merged[-1] = Block(merged[-1].start, block.end)
        else:
            merged.append(block)
    return tuple(merged)


def candidates(num_layers: int, size: int) -> list[Block]:
    """All blocks of ``size`` layers that can be removed."""
    return [Block(start, start + size) for start in range(1, num_layers - size + 1)]


def closest_blocks(distances: Tensor, count: int, num_blocks: int = 1, *, merge: bool = True) -> Choice:
    """The blocks whose input and output are closest (UIDL, ReplaceMe eq. 3).

    Several blocks are taken in the order of their distance, each that overlaps none before it (the
    reference's rule for ``num_A``). The runner-up differs in the last of them.

    Args:
        distances: [layers, layers]; entry (i, j) compares the outputs of layers i and j.
        count: number of layers to remove.
        num_blocks: in how many blocks of the same size.
        merge: make adjacent blocks one.

    Raises:
        InputError: ``count`` does not fit the model, or there is no room for so many blocks.
    """
    num_layers = distances.shape[0]
    check_count(count, num_layers, num_blocks=num_blocks)

    def score(block: Block) -> float:
        return float(distances[block.start - 1, block.end - 1])

    ranked = sorted(candidates(num_layers, count // num_blocks), key=score)
    return choose(ranked, score, num_blocks, merge)


def choose(
    ranked: list[Block], score: Callable[[Block], float], num_blocks: int, merge: bool = True
) -> Choice:
    """The first ``num_blocks`` blocks of a ranking that do not overlap.

    Raises:
        InputError: there are not so many.
    """
    chosen = without_overlap(ranked, num_blocks)
    if len(chosen) < num_blocks:
        raise InputError(f"there is no room for {num_blocks} blocks of {ranked[0].size} layers.")
    others = [b for b in ranked if b not in chosen and _is_free(b, chosen[:-1])]
    total = sum(map(score, chosen))
    blocks = merge_adjacent(chosen) if merge else tuple(sorted(chosen))
    if not others:
        return Choice(blocks, total, None, None)
    second = [*chosen[:-1], others[0]]
    runner_up = merge_adjacent(second) if merge else tuple(sorted(second))
    return Choice(blocks, total, runner_up, sum(map(score, second)))


def without_overlap(ranked: Iterable[Block], most: int) -> list[Block]:
    """The first ``most`` blocks of a ranking that do not overlap; fewer where there is no room."""
    chosen: list[Block] = []
    for block in ranked:
        if len(chosen) < most and _is_free(block, chosen):
            chosen.append(block)
    return chosen


def _is_free(block: Block, taken: Iterable[Block]) -> bool:
    return all(block.end <= other.start or other.end <= block.start for other in taken)


def lowest_loss_blocks(
    distances: Tensor,
    loss: Callable[[tuple[Block, ...]], float],
    count: int,
    num_blocks: int = 1,
    *,
    merge: bool = True,
    tried: int = 8,
) -> Choice:
    """The blocks whose plain removal costs least, by a short greedy search.

    One block after the other: of the ``tried`` closest that overlap none before, the one whose removal
    together with those before gives the lowest loss.

    Args:
        distances: as for :func:`closest_blocks`.
        loss: of the model without some blocks, in ascending order.
        merge: make adjacent blocks one.

    Raises:
        InputError: as for :func:`closest_blocks`.
    """
    num_layers = distances.shape[0]
    check_count(count, num_layers, num_blocks=num_blocks)
    chosen: tuple[Block, ...] = ()
    ranked: list[tuple[float, tuple[Block, ...]]] = []
    for _ in range(num_blocks):
        free = [
            block for block in candidates(num_layers, count // num_blocks) if _is_free(block, chosen)
        ]
        if not free:
            raise InputError(
                f"there is no room for {num_blocks} blocks of {count // num_blocks} layers."
            )
        free.sort(key=lambda block: float(distances[block.start - 1, block.end - 1]))
        trials = [tuple(sorted((*chosen, block))) for block in free[:tried]]
        ranked = sorted((loss(merge_adjacent(blocks)), blocks) for blocks in trials)
        chosen = ranked[0][1]

    def listed(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        return merge_adjacent(blocks) if merge else blocks

    if len(ranked) == 1:
        return Choice(listed(chosen), ranked[0][0], None, None)
    return Choice(listed(chosen), ranked[0][0], listed(ranked[1][1]), ranked[1][0])
