"""The requests of several tasks, of which each is answered once for all that ask it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.scoring.answers import Answers
    from bench.scoring.tasks import PreparedTask
    from bench.scoring.trees import Request, Tree
    from bench.suite.matrix import Cell
    from bench.tasks.planned import PlannedTask


@dataclass(eq=False)
class Asked:
    """A task, and the cells that are to answer it.

    Attributes:
        asks: its requests, which may repeat.
        seconds: of computing answers to those that no task before it asks.
    """

    task: PlannedTask
    prepared: PreparedTask
    cells: list[Cell]
    asks: list[Request]
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.task.name

    @cached_property
    def requests(self) -> list[Request]:
        """Each once."""
        return [*dict.fromkeys(self.asks)]

    @property
    def stems(self) -> list[str]:
        """Of the cells."""
        return [cell.stem for cell in self.cells]


@dataclass(frozen=True)
class Portion:
    """Batches that some variants lack.

    Attributes:
        owner: the task whose requests they are made of.
    """

    owner: Asked
    variants: list[str]
    batches: Sequence[list[Tree]]

    @property
    def requests(self) -> Iterator[Request]:
        for trees in self.batches:
            for tree in trees:
                yield from tree.tails


class Pool:
    """What tasks ask and nobody has answered yet.

    A request belongs to the first task that asks it, and is answered in a batch of that task alone. So
    an answer has the same last bit in whatever order batches are answered, before an interruption or
    after it.
    """

    def __init__(self, known: Answers, asked: Sequence[Asked]) -> None:
        """``asked``: in the order of the suite."""
        self._known, self.asked = known, list(asked)
        self._left: dict[Asked, set[Request]] = {}

    def divide(self) -> list[list[Request]]:
        """The requests that belong to each task.

        One that was answered for a task before an interruption still belongs to it, whether that is
        asked here or not.
        """
        owners: dict[Request, str] = {}
        for one in self.asked:
            for request in one.requests:
                if request not in owners:
                    owners[request] = self._find_owner(request) or one.name
        return [[r for r in one.requests if owners[r] == one.name] for one in self.asked]

    def _find_owner(self, request: Request) -> str | None:
        """The task that a request was answered for, if it is asked here or has all answers."""
        owner = self._known.task_of(request)
        if owner is None or any(one.name == owner for one in self.asked):
            return owner
        stems = {stem for one in self.asked for stem in one.stems}
        return None if self._known.lacking(stems, [request]) else owner

    def portion(self, arranged: Sequence[list[list[Tree]]], asked: Sequence[Asked]) -> list[Portion]:
        """What is to be answered, task by task.

        Args:
            arranged: batches of what belongs to each task, see :meth:`divide`.
            asked: the tasks whose cells are to be answered; batches of others that these need as well
                are answered for these.
        """
        wanted: dict[Request, dict[str, None]] = {}
        for one in asked:
            for request in one.requests:
                wanted.setdefault(request, {}).update(dict.fromkeys(one.stems))
        found: dict[tuple[Asked, tuple[str, ...]], list[list[Tree]]] = {}
        lacking: set[Request] = set()
        for owner, batches in zip(self.asked, arranged, strict=True):
            for trees in batches:
                requests = [request for tree in trees for request in tree.tails]
                stems = dict.fromkeys(stem for r in requests for stem in wanted.get(r, ()))
                if names := self._known.lacking(stems, requests):
                    found.setdefault((owner, tuple(sorted(names))), []).append(trees)
                    lacking.update(requests)
        self._left = {one: lacking.intersection(one.requests) for one in asked}
        return [Portion(owner, list(names), own) for (owner, names), own in found.items()]

    def keep(self, answered: Iterable[Request]) -> None:
        """Note that requests are answered."""
        for request in answered:
            for left in self._left.values():
                left.discard(request)

    def pop_answered(self) -> list[Asked]:
        """The tasks of which nothing is left to be answered, each told once."""
        done = [one for one, left in self._left.items() if not left]
        for one in done:
            del self._left[one]
        return done

    def pop_needing(self, portion: Portion) -> list[Asked]:
        """The tasks that need answers of a portion, which nobody waits for any more."""
        requests = {*portion.requests}
        needing = [one for one, left in self._left.items() if left & requests]
        for one in needing:
            del self._left[one]
        return needing
