"""What a selector is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from replaceme.selection import Block, Choice

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """What a selector may look at.

    Attributes:
        at_last: [layers, layers] float64, angle / π between the states behind layers i and j, mean over
            the last tokens of the samples.
        at_all: the same, mean over all tokens.
        loss: nats per token of the model without some blocks, which are given in ascending order and
            do not touch; ``None`` where the texts are too short to tell.
    """

    at_last: Tensor
    at_all: Tensor
    loss: Callable[[tuple[Block, ...]], float | None]

    def distances(self, tokens: Literal["last", "all"]) -> Tensor:
        """Those at the last tokens, or those at all of them."""
        return self.at_last if tokens == "last" else self.at_all


class Selector(ABC):
    """A way to choose which layers go. A new one is a file in this folder.

    Attributes:
        name: as a suite names it.
        summary: what it does, in a line.
        measure: what it minimises, in a word, for sentences.
        unit: of that, with its range.
        tokens: whether the distances that it ranks by are those at the last tokens or at all.
        rank: where it stands in lists.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    measure: ClassVar[str] = "distance"
    unit: ClassVar[str] = "angular distance, 0 to 1"
    tokens: ClassVar[Literal["last", "all"]] = "all"
    rank: ClassVar[int] = 100

    @abstractmethod
    def choose(self, evidence: Evidence, count: int, num_blocks: int = 1) -> Choice:
        """The blocks to remove, ``count`` layers in ``num_blocks`` blocks of the same size.

        Raises:
            InputError: there is no room for so many.
        """
