"""What stages and executors have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Held:
    """What a worker keeps from job to job, such as a loaded model: one thing at a time.

    Attributes:
        make: a function of a module, which makes it from the arguments.
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
    """

    call: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    held: Held | None = None


@dataclass(frozen=True)
class Outcome:
    """A result of a job, or the error that ended it."""

    value: Any = None
    error: Exception | None = None

    def get(self) -> Any:
        """The result.

        Raises:
            Exception: the error.
        """
        if self.error:
            raise self.error
        return self.value


Shares = Callable[[Job, float], None]


def ignore(_job: Job, _share: float) -> None:
    """Nobody is told."""


class Executor(Protocol):
    """Does jobs.

    Attributes:
        parts: in how many jobs work that can be cut is given away.
    """

    parts: int

    def run(self, jobs: Sequence[Job], tell: Shares = ignore) -> Iterator[tuple[Job, Outcome]]:
        """The outcomes of jobs, as they come.

        Args:
            tell: told which share of a job is done.
        """
        ...

    def let_go(self) -> None:
        """Hold nothing any more."""
        ...


def cut(work: Sequence[T], parts: int) -> list[Sequence[T]]:
    """Work in about equal parts, as many as there can be up to a number."""
    size = max(1, -(-len(work) // parts))
    return [work[start : start + size] for start in range(0, len(work), size)]


def do(executor: Executor, job: Job, tell: Callable[[float], None] = lambda _: None) -> Any:
    """The result of a single job, which has one.

    Raises:
        Exception: the error that ended it.
    """
    ((_, outcome),) = executor.run([job], lambda _, share: tell(share))
    return outcome.get()
