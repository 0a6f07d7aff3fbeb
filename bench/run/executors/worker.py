"""What does the jobs, wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import isgenerator, signature
from typing import Any

from bench.run.executors.job import Held, Job, Outcome
from replaceme.allocator import free_memory
from replaceme.io import loading


class Worker:
    """Does jobs one after the other, and holds what the last one needed."""

    def __init__(self) -> None:
        self._held: tuple[Held, Any] | None = None

    def run(self, job: Job, tell: Callable[[float], None]) -> Iterator[Outcome]:
        """The outcomes of a job."""
        try:
            with loading.enough_memory():
                found = _call(job.call, *self._hold(job.held, tell), *job.arguments, report=tell)
                for value in found if isgenerator(found) else [found]:
                    yield Outcome(value)
        except Exception as error:
            yield Outcome(error=error)

    def _hold(self, wanted: Held | None, tell: Callable[[float], None]) -> tuple[Any, ...]:
        if self._held and self._held[0] == wanted:
            return (self._held[1],)
        self.let_go()
        if wanted is None:
            return ()
        self._held = wanted, _call(wanted.make, *wanted.arguments, report=tell)
        return (self._held[1],)

    def let_go(self) -> None:
        """Hold nothing any more."""
        if self._held:
            if close := getattr(self._held[1], "close", None):
                close()
            self._held = None
            free_memory()


def _call(call: Callable[..., Any], *arguments: Any, report: Callable[[float], None]) -> Any:
    """Call something, with ``report`` where it takes that."""
    if "report" in signature(call).parameters:
        return call(*arguments, report=report)
    return call(*arguments)
