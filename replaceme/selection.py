"""Blocks of layers to remove: which there are, which fit a model, and what was chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from replaceme.errors import InputError


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


def without_overlap(ranked: Iterable[Block], most: int) -> list[Block]:
    """The first ``most`` blocks of a ranking that do not overlap; fewer where there is no room."""
    chosen: list[Block] = []
    for block in ranked:
        if len(chosen) < most and is_free(block, chosen):
            chosen.append(block)
    return chosen


def is_free(block: Block, taken: Iterable[Block]) -> bool:
    """Whether a block overlaps none of others."""
    return all(block.end <= other.start or other.end <= block.start for other in taken)
