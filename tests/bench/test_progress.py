"""What a run tells while several jobs are at hand."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.console import Reporter
from bench.run.executors import Job, Local, Outcome
from bench.run.executors.job import Tell
from bench.run.forecast import Forecast
from bench.run.forecast import Job as Cost
from bench.run.ledger import Ledger
from bench.suite import matrix, suite


class Scripted:
    """Tells and gives what a test says, in that order; what has no title is done."""

    device, workers, parts = None, 2, 2

    def __init__(self, script: Sequence[tuple[int, float | None]]) -> None:
        self.script = script

    def run(self, jobs: Sequence[Job], tell: Tell) -> Iterator[tuple[int, Outcome]]:
        if jobs[0].title is None:
            yield from Local().run(jobs, tell)
            return
        for number, share in self.script:
            if share is None:
                yield number, Outcome()
            tell(number, share)

    def side_by_side(self, calls: Sequence[Callable[[], object]]) -> None:
        raise NotImplementedError

    def let_go(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def told(write_small: Callable[..., Path], tmp_path: Path) -> Callable[..., list[str]]:
    """What is shown of jobs."""

    def told(script: Sequence[tuple[int, float | None]], titles: str = "AB") -> list[str]:
        plan = matrix.expand(suite.load(write_small()))
        ledger = Ledger(plan, tmp_path, executor=Scripted(script))
        shown: list[str] = []
        ledger.progress.reporter = reporter = Reporter(io.StringIO(), 2)
        reporter.show = lambda text, _=None: shown.append(text)  # type: ignore[method-assign]
        jobs = [Job(print, title=title) for title in titles]
        assert len([*ledger.run(jobs)]) == sum(share is None for _, share in script)
        return shown

    return told


def test_all_jobs_at_hand_are_shown(told: Any) -> None:
    script = [(0, 0.0), (1, 0.0), (0, 0.4), (1, 0.1), (0, None), (1, 0.5), (1, None)]
    assert told(script) == [
        "2 workers: A",
        "2 workers: A; B",
        "2 workers: A, 40%; B",
        "2 workers: A, 40%; B, 10%",
        "2 workers: B, 50%",
    ]


def test_jobs_of_one_title_are_parts_of_one_thing(told: Any) -> None:
    script = [(0, 0.0), (1, 0.0), (0, 0.5), (0, None), (2, 0.0), (1, 0.5), (1, None), (2, 0.1)]
    assert told(script, "AAB") == [
        "2 workers: A",
        "2 workers: A, 0%",
        "2 workers: A, 25%",
        "2 workers: A, 50%",
        "2 workers: A, 50%; B",
        "2 workers: A, 75%; B",
        "2 workers: B, 10%",
    ]


def test_line_that_is_no_terminal_is_told_of_each_job_once() -> None:
    stream = io.StringIO()
    reporter = Reporter(stream, 2)
    reporter.step("A")
    reporter.show("2 workers: A")
    reporter.step("B")
    reporter.show("2 workers: A, 40%; B")
    assert [line.split(" (")[0] for line in stream.getvalue().splitlines()] == ["[0/2] A", "[0/2] B"]


def test_jobs_side_by_side_take_as_long_as_they_do_together() -> None:
    """Four jobs of 10 s on two workers: 20 s in all, and 10 s when two are done."""
    now = 0.0
    forecast = Forecast(lambda: now)
    jobs = [Cost("fit", str(number), 1.0) for number in range(4)]
    forecast.expect(jobs)
    forecast.begin(jobs[0].key, "left")
    forecast.begin(jobs[1].key, "right")
    for share in (0.0, 0.5):
        now = 10 * share
        forecast.tell(share, "left")
        forecast.tell(share, "right")
    assert forecast.estimate_left() == pytest.approx(15)
    now = 10.0
    forecast.begin(jobs[2].key, "left")
    forecast.begin(jobs[3].key, "right")
    assert forecast.estimate_left() == pytest.approx(10)
