"""What a selector is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal

from replaceme.errors import InputError
from replaceme.selection import Block, Choice, candidates, check_count, is_free, merge_adjacent

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Evidence:
    """What a selector may look at.

    Attributes:
        distances: [layers, layers] float64, angle / π between the states behind layers i and j, mean
            over the tokens that the selector says.
        loss: nats per token of the model without some blocks, which are given in ascending order and
            do not touch; ``None`` where the texts are too short to tell.
        check_removal: raises InputError where the model cannot be without some blocks, given likewise.
    """

    distances: Tensor
    loss: Callable[[tuple[Block, ...]], float | None]
    check_removal: Callable[[tuple[Block, ...]], None]

    def distance(self, block: Block) -> float:
        """Of the states before and after a block."""
        return float(self.distances[block.start - 1, block.end - 1])


class Selector(ABC):
    """A way to choose which layers go. A new one is a file in this folder.

    One block is taken after the other, each from those that can be removed besides the ones before.

    Attributes:
        name: as a suite names it.
        summary: what it does, in a line.
        measure: what it minimises, in a word, for sentences.
        unit: of that, with its range.
        tokens: whether the distances that it ranks by are those at the last tokens of the samples or at
            all tokens.
        rank: where it stands in lists.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    measure: ClassVar[str] = "distance"
    unit: ClassVar[str] = "angular distance, 0 to 1"
    tokens: ClassVar[Literal["last", "all"]] = "all"
    rank: ClassVar[int] = 100

    @abstractmethod
    def score(
        self, evidence: Evidence, taken: tuple[Block, ...], blocks: Iterable[Block]
    ) -> Iterable[tuple[float, Block]]:
        """The blocks that may come next, the best first.

        Args:
            taken: the blocks taken before.
            blocks: those that can be removed besides them, the closest first; whether one can is tried
                out on a small model when the iteration comes to it.

        Returns:
            Each with what is minimised, of all that is taken together with it.
        """

    def choose(self, evidence: Evidence, count: int, num_blocks: int = 1) -> Choice:
        """The blocks to remove, ``count`` layers in ``num_blocks`` blocks of the same size.

        Those that touch are made one. The runner-up differs in the last that was taken.

        Raises:
            InputError: ``count`` does not fit the model, there is no room for so many blocks, or none
                can be removed.
        """
        check_count(count, len(evidence.distances), num_blocks=num_blocks)
        taken: tuple[Block, ...] = ()
        found: list[tuple[tuple[Block, ...], float]] = []
        for _ in range(num_blocks):
            removable = self._list_removable(evidence, taken, count // num_blocks)
            scored = islice(self.score(evidence, taken, removable), 2)
            found = [((*taken, block), score) for score, block in scored]
            taken = found[0][0]
        (blocks, score), *others = [(merge_adjacent(each), score) for each, score in found]
        if not others:
            return Choice(blocks, score, None, None)
        return Choice(blocks, score, *others[0])

    def _list_removable(
        self, evidence: Evidence, taken: tuple[Block, ...], size: int
    ) -> Iterator[Block]:
        """Blocks of ``size`` layers that can be removed besides those taken, the closest first.

        Raises:
            InputError: there are none; with the reason why the closest cannot.
        """
        free = [block for block in candidates(len(evidence.distances), size) if is_free(block, taken)]
        if not free:
            raise InputError(f"there is no room for {len(taken) + 1} blocks of {size} layers.")
        refusals = []
        for block in sorted(free, key=evidence.distance):
            try:
                evidence.check_removal(merge_adjacent((*taken, block)))
            except InputError as error:
                refusals.append(error)
            else:
                yield block
        if len(refusals) == len(free):
            raise InputError(f"no block of {size} layers can be removed. {refusals[0]}")
