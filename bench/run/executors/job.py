"""What stages and executors have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from bench.run.forecast import Key
from replaceme.errors import InputError, OutputError

T = TypeVar("T")


class LostError(OutputError):
    """Nobody is left to do jobs. The message is complete, and ends the run."""


@dataclass(frozen=True)
class Held:
    """What a worker keeps from job to job, such as a loaded model: one thing at a time.

    Attributes:
        make: a function of a module, or a class, which makes it from the arguments. One that takes
            ``report`` tells the share that is done. What has a ``close`` is closed in the end.
        arguments: by which it is told from others.
    """

    make: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Job:
    """A call.

    Attributes:
        call: a function of a module, or a method of what is held; a generator has a result for each that
            it yields. One that takes ``report`` tells the share that is done.
        arguments: behind what is held, if something is.
        held: what the worker has to hold; ``None``: nothing.
        title: what it is called where progress is shown; ``None``: it is a part of something else. Jobs
            of one title are parts of one thing.
        cost: the key of what that costs, see :mod:`bench.run.costs`.
        exclusive: alone on its machine: nothing else computes there while it is done.
        resumes: done again because its worker died, all that it gives is handed on, since it gives only
            what had not come before, or that may come twice; of others the executor leaves out as many
            results as had come.
    """

    call: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    held: Held | None = None
    title: str | None = None
    cost: Key | None = None
    exclusive: bool = False
    resumes: bool = False


@dataclass(frozen=True)
class Outcome:
    """A result of a job, or the error that ended it.

    Attributes:
        trace: where the error was raised, if that was in another process.
    """

    value: Any = None
    error: Exception | None = None
    trace: str | None = None

    def get(self) -> Any:
        """The result.

        Raises:
            Exception: the error.
        """
        if self.error is None:
            return self.value
        if self.trace and not isinstance(self.error, InputError):
            raise self.error from RuntimeError(self.trace)
        raise self.error


Tell = Callable[[int, float | None], None]


class Executor(Protocol):
    """Does jobs.

    Attributes:
        workers: how many jobs it does side by side.
        parts: in how many jobs work that can be cut is given away.
        device: where jobs compute; ``None``: on the GPU of this machine if it has one.
        gpus: that a job can use; ``None``: all of this machine, or there are none.
    """

    workers: int
    parts: int
    device: str | None
    gpus: float | None

    def run(self, jobs: Sequence[Job], tell: Tell) -> Iterator[tuple[int, Outcome]]:
        """The outcomes of jobs, as they come, with the number of the job.

        Args:
            tell: told which share of a job, by its number, is done: 0 when it begins, ``None`` when it
                has ended.
        """
        ...

    def side_by_side(self, calls: Sequence[Callable[[], object]]) -> None:
        """Call what has jobs run: one after the other, or so that the jobs of some run beside those of
        others, while never two of the calls themselves run at once."""
        ...

    def let_go(self) -> None:
        """Hold nothing any more."""
        ...

    def close(self) -> None:
        """Do nothing any more."""
        ...


def cut(work: Sequence[T], parts: int) -> list[Sequence[T]]:
    """Work in about equal parts, as many as there can be up to a number."""
    size = max(1, -(-len(work) // parts))
    return [work[start : start + size] for start in range(0, len(work), size)]


def balance(work: Sequence[T], parts: int, size: Callable[[T], float]) -> list[list[T]]:
    """Work in as many parts, at most, that are about equally large together."""
    shares: list[list[T]] = [[] for _ in range(min(parts, len(work)))]
    for one in sorted(work, key=size, reverse=True):
        min(shares, key=lambda share: sum(map(size, share))).append(one)
    return shares
