"""The published choice: the smallest angle at the last token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from replaceme.errors import InputError
from replaceme.selection import (
    Block,
    Choice,
    candidates,
    check_count,
    is_free,
    merge_adjacent,
    without_overlap,
)
from replaceme.selectors.base import Evidence, Selector

if TYPE_CHECKING:
    from torch import Tensor


class Angular(Selector):
    """UIDL, ReplaceMe eq. 3: the block whose input and output states are closest."""

    name: ClassVar[str] = "angular"
    summary: ClassVar[str] = (
        "smallest angle between the states before and after, at the last token of each sample"
    )
    tokens: ClassVar[Literal["last", "all"]] = "last"
    rank: ClassVar[int] = 0

    def choose(self, evidence: Evidence, count: int, num_blocks: int = 1) -> Choice:
        return closest_blocks(evidence.distances(self.tokens), count, num_blocks)


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
    return choose_first(ranked, score, num_blocks, merge)


def choose_first(
    ranked: list[Block], score: Callable[[Block], float], num_blocks: int, merge: bool = True
) -> Choice:
    """The first ``num_blocks`` blocks of a ranking that do not overlap.

    Raises:
        InputError: there are not so many.
    """
    chosen = without_overlap(ranked, num_blocks)
    if len(chosen) < num_blocks:
        raise InputError(f"there is no room for {num_blocks} blocks of {ranked[0].size} layers.")
    others = [b for b in ranked if b not in chosen and is_free(b, chosen[:-1])]
    total = sum(map(score, chosen))
    blocks = merge_adjacent(chosen) if merge else tuple(sorted(chosen))
    if not others:
        return Choice(blocks, total, None, None)
    second = [*chosen[:-1], others[0]]
    runner_up = merge_adjacent(second) if merge else tuple(sorted(second))
    return Choice(blocks, total, runner_up, sum(map(score, second)))
