"""One worker: this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from bench.run.executors.job import Job, Outcome, Shares, ignore
from bench.run.executors.worker import Worker


class Local:
    """Does jobs in this process, one after the other."""

    parts = 1

    def __init__(self) -> None:
        self._worker = Worker()

    def run(self, jobs: Sequence[Job], tell: Shares = ignore) -> Iterator[tuple[Job, Outcome]]:
        for job in jobs:
            for outcome in self._worker.run(job, partial(tell, job)):
                yield job, outcome

    def let_go(self) -> None:
        self._worker.let_go()
