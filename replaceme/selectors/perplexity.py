"""The lowest loss after plain removal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from replaceme.errors import InputError
from replaceme.selection import (
    Block,
    Choice,
    candidates,
    check_count,
    is_free,
    merge_adjacent,
)
from replaceme.selectors.base import Evidence, Selector

if TYPE_CHECKING:
    from torch import Tensor


class Perplexity(Selector):
    """Tries the closest blocks, and takes that without which the model predicts best."""

    name: ClassVar[str] = "perplexity"
    summary: ClassVar[str] = "lowest loss after plain removal, by a short greedy search"
    measure: ClassVar[str] = "loss"
    unit: ClassVar[str] = "nats per token after plain removal"
    rank: ClassVar[int] = 2

    def choose(self, evidence: Evidence, count: int, num_blocks: int = 1) -> Choice:
        def loss(blocks: tuple[Block, ...]) -> float:
            if (nats := evidence.loss(blocks)) is None:
                raise InputError(
                    f"selector {self.name!r} needs calibration texts of two tokens or more."
                )
            return nats

        return lowest_loss_blocks(evidence.distances(self.tokens), loss, count, num_blocks)


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
        free = [block for block in candidates(num_layers, count // num_blocks) if is_free(block, chosen)]
        if not free:
            raise InputError(
                f"there is no room for {num_blocks} blocks of {count // num_blocks} layers."
            )
        free.sort(key=lambda block: float(distances[block.start - 1, block.end - 1]))
        trials = [tuple(sorted((*chosen, block))) for block in free[:tried]]
        ranked = sorted((loss(merge_adjacent(blocks)), blocks) for blocks in trials)
        chosen = ranked[0][1]

    def put(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        return merge_adjacent(blocks) if merge else blocks

    if len(ranked) == 1:
        return Choice(put(chosen), ranked[0][0], None, None)
    return Choice(put(chosen), ranked[0][0], put(ranked[1][1]), ranked[1][0])
