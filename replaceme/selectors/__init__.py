"""Selectors: how the layers to remove are chosen. One file a selector; lying here registers it.

Importing the registry is cheap, so that a suite can be checked without torch.
"""

from dataclasses import dataclass
from typing import Literal

from replaceme.errors import InputError, nearest
from replaceme.registry import collect_classes
from replaceme.selection import Choice
from replaceme.selectors.base import Evidence, Selector

SELECTORS: dict[str, type[Selector]] = collect_classes(__name__, __path__, Selector)

__all__ = ["SELECTORS", "Evidence", "Selection", "Selector"]


@dataclass(frozen=True)
class Selection:
    """How blocks are chosen for a layer count.

    Attributes:
        selector: a key of ``SELECTORS``.
        num_blocks: in how many blocks of the same size the layers are removed.

    Raises:
        InputError: no such selector, or no block.
    """

    selector: str = "angular"
    num_blocks: int = 1

    def __post_init__(self) -> None:
        if self.selector not in SELECTORS:
            raise InputError(
                f"unknown selector {self.selector!r}{nearest(self.selector, list(SELECTORS))} Selectors "
                f"are {', '.join(SELECTORS)}."
            )
        if self.num_blocks < 1:
            raise InputError(f"num_blocks is at least 1; got {self.num_blocks}.")

    @property
    def tokens(self) -> Literal["last", "all"]:
        """At which tokens it wants distances."""
        return SELECTORS[self.selector].tokens

    def choose(self, evidence: Evidence, count: int) -> Choice:
        """The blocks for ``count`` layers."""
        return SELECTORS[self.selector]().choose(evidence, count, self.num_blocks)
