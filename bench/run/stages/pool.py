"""The requests of several tasks, of which each is answered once for all that ask it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
        requests: each once.
        seconds: of computing the answers that it was the first to wait for.
    """

    task: PlannedTask
    prepared: PreparedTask
    cells: list[Cell]
    requests: list[Request]
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def stems(self) -> list[str]:
        """Of the cells."""
        return [cell.stem for cell in self.cells]


@dataclass(frozen=True)
class Portion:
    """Batches that some variants lack.

    Attributes:
        owner: name of the task that the requests belong to.
        asker: the first task that waits for the answers.
    """

    owner: str
    asker: Asked
    variants: list[str]
    batches: Sequence[list[Tree]]

    @property
    def requests(self) -> Iterator[Request]:
        for trees in self.batches:
            yield from _list_requests(trees)


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

        One that was answered for a task before an interruption still belongs to it. If that task does
        not ask it here, nobody has to, unless a cell here lacks the answer.
        """
        askers: dict[Request, list[str]] = {}
        for one in self.asked:
            for request in one.requests:
                askers.setdefault(request, []).append(one.name)
        owners = {request: self._find_owner(request, names) for request, names in askers.items()}
        return [[r for r in one.requests if owners[r] == one.name] for one in self.asked]

    def _find_owner(self, request: Request, askers: list[str]) -> str:
        owner = self._known.task_of(request)
        if owner is None or owner in askers:
            return owner or askers[0]
        stems = {stem for one in self.asked for stem in one.stems}
        return askers[0] if self._known.lacking(stems, [request]) else owner

    def portion(self, arranged: Sequence[list[list[Tree]]], asked: Sequence[Asked]) -> list[Portion]:
        """What is to be answered, task by task.

        Args:
            arranged: batches of what belongs to each task, see :meth:`divide`.
            asked: the tasks whose cells are to be answered; batches of others that these need as well
                are answered for these.
        """
        wanted: dict[Request, list[Asked]] = {}
        for one in asked:
            for request in one.requests:
                wanted.setdefault(request, []).append(one)
        found: dict[tuple[str, Asked, tuple[str, ...]], list[list[Tree]]] = {}
        lacking: set[Request] = set()
        for owner, batches in zip(self.asked, arranged, strict=True):
            for trees in batches:
                requests = _list_requests(trees)
                waiting = {one for request in requests for one in wanted.get(request, ())}
                stems = {stem for one in waiting for stem in one.stems}
                if names := self._known.lacking(sorted(stems), requests):
                    asker = next(one for one in asked if one in waiting)
                    found.setdefault((owner.name, asker, tuple(names)), []).append(trees)
                    lacking.update(requests)
        self._left = {one: lacking.intersection(one.requests) for one in asked}
        return [Portion(*key[:2], [*key[2]], own) for key, own in found.items()]

    def keep(self, answered: Iterable[Request]) -> None:
        """Note that requests are answered."""
        for request in answered:
            for left in self._left.values():
                left.discard(request)

    def pop_answered(self) -> list[Asked]:
        """The tasks of which nothing is left to be answered, each told once."""
        return self.pop([one for one, left in self._left.items() if not left])

    def pop(self, asked: Iterable[Asked] | None = None) -> list[Asked]:
        """Those of some tasks, or of all, that wait for answers; they do so no more."""
        found = [one for one in [*(self._left if asked is None else asked)] if one in self._left]
        for one in found:
            del self._left[one]
        return found

    def pass_on(self, portion: Portion) -> list[Portion]:
        """What other tasks than the asker need of a portion."""
        found = []
        for one, left in self._left.items():
            needed = [trees for trees in portion.batches if left.intersection(_list_requests(trees))]
            if needed and one is not portion.asker:
                found.append(replace(portion, asker=one, batches=needed))
        return found


def _list_requests(trees: list[Tree]) -> list[Request]:
    return [request for tree in trees for request in tree.tails]
