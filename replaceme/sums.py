"""Sums over calibration tokens that are the same whoever adds them up.

The batches are cut into parts. Each part is summed by itself, and the sums of parts are added in their
order: workers that each have some of the parts come, to the last bit, to what one finds that has all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from replaceme.room import Room

if TYPE_CHECKING:
    from replaceme.calibration import Batch, Batches
    from replaceme.room import Kept

PARTS = 8


def count_parts(batches: Batches) -> int:
    """In how many parts batches are cut."""
    return min(PARTS, len(batches))


@dataclass(frozen=True)
class Portion:
    """Some of the parts of batches, one after the other; their numbers begin at 0."""

    batches: Batches
    parts: range

    @classmethod
    def whole(cls, batches: Batches) -> Portion:
        """All of them."""
        return cls(batches, range(count_parts(batches)))

    def __len__(self) -> int:
        return self._begin(self.parts.stop) - self._begin(self.parts.start)

    def __iter__(self) -> Iterator[Batch]:
        return islice(self.batches, self._begin(self.parts.start), self._begin(self.parts.stop))

    def part_of(self, number: int) -> int:
        """The part that a batch belongs to.

        Args:
            number: of the batch among these.
        """
        whole = self._begin(self.parts.start) + number
        return ((whole + 1) * count_parts(self.batches) - 1) // len(self.batches)

    def _begin(self, part: int) -> int:
        """Number of a part's first batch among all."""
        return part * len(self.batches) // max(1, count_parts(self.batches))


class Sum:
    """A float64 sum over parts, which are added one after the other."""

    def __init__(self, room: Room | None = None) -> None:
        """Nothing yet.

        Args:
            room: where the sum waits while a part is added up; ``None``: in memory.
        """
        self._room = room or Room()
        self._part: int | None = None
        self._running: Tensor | None = None
        self._closed: dict[int, Kept] = {}  # first of the parts that are in it → a sum

    def of_part(self, part: int, shape: Iterable[int], device: torch.device) -> Tensor:
        """The sum of a part so far, which the caller adds to in place.

        Args:
            part: its number; not smaller than that of the call before.
        """
        if part != self._part:
            self._close()
            self._part = part
        if self._running is None:
            self._running = torch.zeros(*shape, dtype=torch.float64, device=device)
        return self._running

    def extend(self, later: Sum) -> None:
        """Add the sums of the parts that follow."""
        self._close()
        for part, kept in later.take().items():
            self._add(part, kept.read())

    def take(self) -> dict[int, Kept]:
        """Number of the first of the parts that are in it → a sum; nothing is left behind.

        There is one, of all parts, where the first part is among them.
        """
        self._close()
        found, self._closed, self._running = self._closed, {}, None
        return found

    def total(self) -> Kept:
        """The sum of all parts; nothing is left behind."""
        (kept,) = self.take().values()
        return kept

    def _close(self) -> None:
        """Add the part that is being added up to those before."""
        if self._part is None or self._running is None:
            return
        if self._add(self._part, self._running):
            self._running.zero_()
        else:
            self._running = None
        self._part = None

    def _add(self, part: int, values: Tensor) -> bool:
        """Have the sum of a part; whether it was added to another, and its memory is free again."""
        if 0 not in self._closed:
            self._closed[part] = self._room.put(values)
            return False
        total = self._closed.pop(0).read()
        self._closed[0] = self._room.put(total.add_(values.to(total.device)))
        return True

    def __getstate__(self) -> dict[int, Tensor]:
        self._close()
        return {part: kept.read().cpu() for part, kept in self._closed.items()}

    def __setstate__(self, state: dict[int, Tensor]) -> None:
        self.__init__()  # type: ignore[misc]
        self._closed = {part: self._room.put(values) for part, values in state.items()}


@dataclass
class Sample:
    """States of the tokens with a rank below a count; a token's rank is its row.

    Memory is taken once, so that it does not fragment.
    """

    count: int
    rows: dict[str, Tensor] = field(default_factory=dict)
    _ranks: dict[str, list[Tensor]] = field(default_factory=dict)

    def keep(self, name: str, states: Tensor, ranks: Tensor, most: int | None = None) -> None:
        """Put the tokens that belong to a sample of ``count``, or of ``most``, in their places."""
        count = min(self.count, most or self.count)
        chosen = (ranks < count).nonzero().squeeze(1)
        self._put(name, count, ranks[chosen], states[chosen.to(states.device)].cpu())

    def extend(self, later: Sample) -> None:
        """Take in the tokens that another has."""
        for name, rows in later.rows.items():
            for ranks in later._ranks[name]:
                self._put(name, len(rows), ranks, rows[ranks])

    def _put(self, name: str, count: int, ranks: Tensor, states: Tensor) -> None:
        if name not in self.rows:
            self.rows[name] = torch.empty(count, states.shape[1], dtype=states.dtype)
            self._ranks[name] = []
        self.rows[name][ranks] = states
        self._ranks[name].append(ranks)

    def __getstate__(self) -> dict[str, Any]:
        found = {}
        for name, rows in self.rows.items():
            ranks = torch.cat(self._ranks[name])
            found[name] = (len(rows), ranks, rows[ranks])
        return {"count": self.count, "found": found}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.count, self.rows, self._ranks = state["count"], {}, {}
        for name, part in state["found"].items():
            self._put(name, *part)
