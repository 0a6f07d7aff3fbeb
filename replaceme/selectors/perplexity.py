"""The lowest loss after plain removal."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import ClassVar

from replaceme.errors import InputError
from replaceme.selection import Block, merge_adjacent
from replaceme.selectors.base import Evidence, Selector


class Perplexity(Selector):
    """Tries the closest blocks, and takes that without which the model predicts best.

    Each block is judged together with those taken before.

    Attributes:
        tried: how many blocks.
    """

    name: ClassVar[str] = "perplexity"
    summary: ClassVar[str] = "lowest loss after plain removal, by a short greedy search"
    measure: ClassVar[str] = "loss"
    unit: ClassVar[str] = "nats per token after plain removal"
    rank: ClassVar[int] = 2
    tried: ClassVar[int] = 8

    def score(
        self, evidence: Evidence, taken: tuple[Block, ...], blocks: Iterable[Block]
    ) -> Iterable[tuple[float, Block]]:
        closest = islice(blocks, self.tried)
        return sorted((self._loss(evidence, (*taken, block)), block) for block in closest)

    def _loss(self, evidence: Evidence, blocks: tuple[Block, ...]) -> float:
        if (nats := evidence.loss(merge_adjacent(blocks))) is None:
            raise InputError(f"selector {self.name!r} needs calibration texts of two tokens or more.")
        return nats
