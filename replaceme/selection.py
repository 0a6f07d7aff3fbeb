"""Distances between layers → the block of layers to remove."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from replaceme.errors import InputError

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

    @classmethod
    def parse(cls, text: str, num_layers: int) -> Block:
        """A block from ``START:END``.

        Raises:
            InputError: not two whole numbers, or outside ``1 <= START < END <= num_layers``.
        """
        try:
            start, end = (int(part) for part in text.split(":"))
        except ValueError:
            raise InputError(
                f"block {text!r} is not START:END with two whole numbers, such as 13:19."
            ) from None
        check_block(block := cls(start, end), num_layers)
        return block


class Choice(NamedTuple):
    """The chosen block with its distance, and the second best (``None`` where there is only one)."""

    block: Block
    distance: float
    runner_up: Block | None
    runner_up_distance: float | None


def check_count(count: int, num_layers: int, where: str = "layers") -> None:
    """Refuse a number of layers that cannot be removed from ``num_layers``.

    Raises:
        InputError: unless ``1 <= count <= num_layers - 1`` (the layer before the block must stay).
    """
    if not 1 <= count < num_layers:
        raise InputError(
            f"{where}: {count} layers cannot be removed from a model of {num_layers}; allowed are 1 "
            f"to {num_layers - 1}."
        )


def check_block(block: Block, num_layers: int) -> None:
    """Refuse a block that does not lie inside a model of ``num_layers``.

    Raises:
        InputError: unless ``1 <= start < end <= num_layers``.
    """
    if not 1 <= block.start < block.end <= num_layers:
        raise InputError(
            f"block '{block.start}:{block.end}' does not fit a model of {num_layers} layers: START is "
            f"at least 1, END is larger than START and at most {num_layers} (END itself is kept)."
        )


def closest_block(distances: Tensor, count: int) -> Choice:
    """The block of ``count`` layers whose input and output are closest (UIDL, ReplaceMe eq. 3).

    Args:
        distances: [layers, layers]; entry (i, j) compares the outputs of layers i and j.
        count: number of layers to remove.

    Raises:
        InputError: ``count`` does not fit the model.
    """
    num_layers = distances.shape[0]
    check_count(count, num_layers)
    ranked = sorted(
        (float(distances[start - 1, start + count - 1]), Block(start, start + count))
        for start in range(1, num_layers - count + 1)
    )
    (distance, block), second = ranked[0], ranked[1] if len(ranked) > 1 else None
    return Choice(block, distance, second[1] if second else None, second[0] if second else None)
