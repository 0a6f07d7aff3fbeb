"""The published choice: the smallest angle at the last token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from replaceme.selection import Block
from replaceme.selectors.base import Evidence, Selector


class Angular(Selector):
    """The blocks whose input and output are closest (UIDL, ReplaceMe eq. 3).

    Several blocks are taken in the order of their distance, each that overlaps none before it (the
    reference's rule for ``num_A``).
    """

    name: ClassVar[str] = "angular"
    summary: ClassVar[str] = (
        "smallest angle between the states before and after, at the last token of each sample"
    )
    tokens: ClassVar[Literal["last", "all"]] = "last"
    rank: ClassVar[int] = 0

    def score(
        self, evidence: Evidence, taken: tuple[Block, ...], blocks: Iterable[Block]
    ) -> Iterable[tuple[float, Block]]:
        before = sum(evidence.distance(block) for block in taken)
        return ((before + evidence.distance(block), block) for block in blocks)
