"""How long the rest of a run takes, told from what its jobs cost and from what those that ran took."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable
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


@dataclass
class _Current:
    """A job that runs.

    Attributes:
        elapsed: seconds that it has run; of those in which others ran beside it, its part.
        shares: seconds when it told which share is done: first and last.
    """

    key: Key
    elapsed: float = 0.0
    shares: tuple[tuple[float, float], ...] = ()

    @property
    def part(self) -> tuple[float, float] | None:
        """A share of it and the seconds that took; ``None``: too little is done to tell. It counts from
        the first that is told, so that what it has to load before does not."""
        if len(self.shares) < 2:
            return None
        (begun, first), (ended, last) = self.shares
        return (last - first, ended - begun) if last - first >= LEAST_SHARE else None


class Forecast:
    """Jobs of a run: what they took, how far those are that run, and what is left.

    A job takes ``fixed + work × pace`` seconds. The pace is that of its kind, measured on those that ran
    and on those that run, as far as they have come; of all kinds where none of its own has run yet. Of
    several jobs that run side by side each is counted with its part of the time, so that what is left
    takes as long as the sum of it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()
        self._jobs: dict[Key, Job] = {}
        self._taken: dict[Key, float] = {}  # seconds of those that are done
        self._current: dict[Hashable, _Current] = {}  # by the lane in which they run

    def expect(self, jobs: Iterable[Job]) -> None:
        """Take these for what is left; jobs that ran stay as they were, and those that run, with the
        work told last."""
        begun = self._begun
        known = {key: job for key, job in self._jobs.items() if key in begun}
        done = {key: job for key, job in known.items() if key in self._taken}
        self._jobs = known | {job.key: job for job in jobs} | done

    def begin(self, key: Key | None, lane: Hashable = None) -> None:
        """A job begins, or something that is none; the one that ran in its lane is done."""
        self._advance()
        if done := self._current.pop(lane, None):
            self._taken[done.key] = done.elapsed
        if key is not None:
            self._current[lane] = _Current(key)

    def tell(self, share: float, lane: Hashable = None) -> None:
        """Which share of the job that runs in a lane is done."""
        self._advance()
        if one := self._current.get(lane):
            one.shares = (*one.shares[:1], (one.elapsed, share))

    def estimate_left(self) -> float | None:
        """Seconds until everything is done; ``None`` as long as nothing was measured."""
        self._advance()
        if not any(job.work for job, _ in self._measured()):
            return None
        waiting = [job for key, job in self._jobs.items() if key not in self._begun]
        return sum(map(self._predict, waiting)) + sum(map(self._estimate, self._current.values()))

    @property
    def _begun(self) -> set[Key]:
        return {*self._taken, *(one.key for one in self._current.values())}

    def _advance(self) -> None:
        """Give those that run their parts of the time since."""
        now = self._clock()
        for one in self._current.values():
            one.elapsed += (now - self._last) / len(self._current)
        self._last = now

    def _estimate(self, one: _Current) -> float:
        job = self._jobs.get(one.key)
        if job is None:
            return 0.0
        if one.part:
            share, seconds = one.part
            when, done = one.shares[-1]
            return max(seconds / share * (1 - done) - (one.elapsed - when), 0.0)
        return max(self._predict(job) - one.elapsed, OVERTIME * one.elapsed)

    def _predict(self, job: Job) -> float:
        measured = self._measured()
        alike = [(other, seconds) for other, seconds in measured if other.kind == job.kind]
        pace = _pace(alike) or _pace(measured) or 1.0
        for one in self._current.values():
            current = self._jobs.get(one.key)
            if current and current.kind == job.kind and current.work and not one.part:
                pace = max(pace, (one.elapsed - current.fixed) / current.work)  # it may take longer
        return job.fixed + job.work * pace

    def _measured(self) -> list[tuple[Job, float]]:
        """Jobs, or done parts of them, with their seconds."""
        measured = [(job, self._taken[key]) for key, job in self._jobs.items() if key in self._taken]
        for one in self._current.values():
            if (job := self._jobs.get(one.key)) and one.part:
                share, seconds = one.part
                measured.append((Job(job.kind, job.name, job.work * share), seconds))
        return measured


def _pace(measured: list[tuple[Job, float]]) -> float | None:
    """Seconds of work for a usual machine's second; ``None`` where there is no work."""
    work = sum(job.work for job, _ in measured)
    if not work:
        return None
    return sum(max(seconds - job.fixed, 0.0) for job, seconds in measured) / work
