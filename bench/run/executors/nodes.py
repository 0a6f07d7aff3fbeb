"""The machines of a cluster that are kept for a job that is alone there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar


class Placed(Protocol):
    """A worker.

    Attributes:
        node: its machine; ``None``: it has not said so yet.
    """

    @property
    def node(self) -> str | None: ...


P = TypeVar("P", bound=Placed)


class Nodes:
    """Which machines are kept, and for whom: for somebody who waits until nothing is done there, or for
    the job that is done there alone."""

    def __init__(self) -> None:
        self._kept: dict[Any, str] = {}

    def is_open(self, worker: Placed) -> bool:
        """Whether a worker may begin something that others may be done beside."""
        return not self._kept or worker.node not in {None, *self._kept.values()}

    def keep(self, waiting: Any, idle: Sequence[P], busy: Sequence[P]) -> list[P]:
        """Keep a machine for somebody; its workers as soon as none of them does anything, else none.

        It is the one with the fewest busy workers, and the same as long as there are workers on it.
        """
        there = {worker.node for worker in (*idle, *busy)} - {None}
        if self._kept.get(waiting) not in there:
            self._kept.pop(waiting, None)
            free = there - {*self._kept.values()}
            if not free:
                return []
            at_work = [worker.node for worker in busy]
            self._kept[waiting] = min(sorted(map(str, free)), key=at_work.count)
        node = self._kept[waiting]
        if any(worker.node in (None, node) for worker in busy):
            return []
        return [worker for worker in idle if worker.node == node]

    def hand_over(self, waiting: Any, job: Any) -> None:
        """Keep the machine for the job that begins there."""
        self._kept[job] = self._kept.pop(waiting)

    def release(self, holder: Any) -> None:
        """Keep no machine any more for somebody, or a job."""
        self._kept.pop(holder, None)
