"""How long the rest of a run takes, told from what its jobs cost and from what those that ran took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Key = tuple[str, str]
LEAST_SHARE = 0.02  # of a job, from which its time tells the rest
OVERTIME = 0.1  # of its time so far: what is left of a job that takes longer than told


@dataclass(frozen=True)
class Job:
    """A part of a run that takes long.

    Attributes:
        kind: jobs of one kind compute alike, so that the time of one tells that of the others.
        name: which of its kind.
        work: seconds that its computation takes on a usual machine.
        fixed: seconds that it takes besides, the same on every machine.
    """

    kind: str
    name: str
    work: float
    fixed: float = 0.0

    @property
    def key(self) -> Key:
        return self.kind, self.name


class Forecast:
    """Jobs of a run: what they took, how far the one is that runs, and what is left.

    A job takes ``fixed + work × pace`` seconds. The pace is that of its kind, measured on those that ran
    and on the one that runs, as far as it has come; of all kinds where none of its own has run yet.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: dict[Key, Job] = {}
        self._taken: dict[Key, float] = {}  # seconds of those that are done
        self._current: Key | None = None
        self._begun = 0.0
        self._shares: list[tuple[float, float]] = []  # when told, of the job that runs: first and last

    def expect(self, jobs: Iterable[Job]) -> None:
        """Take these for what is left; jobs that ran, or run, stay, with the work told last."""
        known = {key: job for key, job in self._jobs.items() if key in {*self._taken, self._current}}
        self._jobs = known | {job.key: job for job in jobs}

    def begin(self, key: Key | None) -> None:
        """A job begins, or something that is none; the one that ran is done."""
        if self._current is not None:
            self._taken[self._current] = self._elapsed
        self._current, self._begun, self._shares = key, self._clock(), []

    def tell(self, share: float) -> None:
        """Which share of the job that runs is done; its pace counts from the first that is told, so that
        what it has to load before does not."""
        self._shares = [*self._shares[:1], (self._clock(), share)]

    def estimate_left(self) -> float | None:
        """Seconds until everything is done; ``None`` as long as nothing was measured."""
        if not any(job.work for job, _ in self._measured()):
            return None
        waiting = [job for key, job in self._jobs.items() if key not in {*self._taken, self._current}]
        return sum(map(self._predict, waiting)) + self._estimate_current()

    @property
    def _elapsed(self) -> float:
        """Seconds that the current job has run."""
        return self._clock() - self._begun

    def _estimate_current(self) -> float:
        job = self._jobs.get(self._current) if self._current else None
        if job is None:
            return 0.0
        if part := self._done_part():
            share, seconds = part
            when, done = self._shares[-1]
            return max(seconds / share * (1 - done) - (self._clock() - when), 0.0)
        return max(self._predict(job) - self._elapsed, OVERTIME * self._elapsed)

    def _predict(self, job: Job) -> float:
        measured = self._measured()
        alike = [(other, seconds) for other, seconds in measured if other.kind == job.kind]
        pace = _pace(alike) or _pace(measured) or 1.0
        current = self._jobs.get(self._current) if self._current else None
        told = self._done_part() is not None
        if current and current.kind == job.kind and current.work and not told:  # it may take longer
            pace = max(pace, (self._elapsed - current.fixed) / current.work)
        return job.fixed + job.work * pace

    def _measured(self) -> list[tuple[Job, float]]:
        """Jobs, or done parts of them, with their seconds."""
        measured = [(job, self._taken[key]) for key, job in self._jobs.items() if key in self._taken]
        job = self._jobs.get(self._current) if self._current else None
        if job and (part := self._done_part()):
            share, seconds = part
            measured.append((Job(job.kind, job.name, job.work * share), seconds))
        return measured

    def _done_part(self) -> tuple[float, float] | None:
        """A share of the job that runs and the seconds it took; ``None``: too little is done to tell."""
        if len(self._shares) < 2:
            return None
        (begun, first), (ended, last) = self._shares
        return (last - first, ended - begun) if last - first >= LEAST_SHARE else None


def _pace(measured: list[tuple[Job, float]]) -> float | None:
    """Seconds of work for a usual machine's second; ``None`` where there is no work."""
    work = sum(job.work for job, _ in measured)
    if not work:
        return None
    return sum(max(seconds - job.fixed, 0.0) for job, seconds in measured) / work
