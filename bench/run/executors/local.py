"""One worker: this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from bench.run.executors.job import Job, Outcome, Tell
from bench.run.executors.worker import Worker


class Local:
    """Does jobs in this process, one after the other."""

    workers = parts = 1
    device: str | None = None
    gpus: float | None = None

    def __init__(self) -> None:
        self._worker = Worker()

    def run(self, jobs: Sequence[Job], tell: Tell) -> Iterator[tuple[int, Outcome]]:
        for number, job in enumerate(jobs):
            tell(number, 0.0)
            for outcome in self._worker.run(job, partial(tell, number)):
                yield number, outcome
            tell(number, None)

    def side_by_side(self, calls: Sequence[Callable[[], object]]) -> None:
        for call in calls:
            call()

    def let_go(self) -> None:
        self._worker.let_go()

    def close(self) -> None:
        self.let_go()
