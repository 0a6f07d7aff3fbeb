"""The remaining time of a run: what is left, at the pace of what ran."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.run.costs import (
    Costs,
    calibration_of,
    check_of,
    fit_of,
    pass_of,
    reload_of,
    scoring_of,
    serving_of,
    writing_of,
)
from bench.run.forecast import Forecast, Job, Key
from bench.run.ledger import Ledger
from bench.run.sizes import ModelSize, TaskSize
from bench.suite import matrix, suite

DEMO = Path(__file__).parents[2] / "suites" / "demo.yaml"
SMOLLM = ModelSize(layers=30, layer=3.54e6, head=28.3e6)
ASKED = {
    "demo_facts": TaskSize(3328, 3235, 16547, 1600),
    "demo_grammar": TaskSize(0, 7928, 7928, 800),
    "demo_lastword": TaskSize(19754, 635, 20388, 400),
    "demo_retrieval": TaskSize(29097, 639, 29736, 400),
    "demo_causes": TaskSize(3832, 4285, 11948, 816),
}
WRITTEN = {
    "demo_profiles": TaskSize(11186, 153600, 164786, 120, 5636),
    "demo_sums": TaskSize(18124, 153600, 171724, 120, 6664),
}
# Seconds of a run of the demo on two cores, with all items and 150 calibration texts.
CALIBRATING, RECONSTRUCTING, FITTING, RELOADING = 77, 110, 11, 6.2
CHECKING = 36  # of a later run; here it was a part of what each task took
SCORING = dict(zip(ASKED, (43, 72, 154, 209, 85), strict=True))
WRITING = {0: 40, 3: 103, 6: 93, 9: 82}
SERVING = {0: 49, 3: 60, 6: 44, 9: 44}


def load_measured() -> suite.Suite:
    """The demo as it was when these times were taken."""
    demo = suite.load(DEMO)
    assert demo.score
    assert demo.calibration
    calibration = demo.calibration.model_copy(update={"samples": 150})
    score = demo.score.model_copy(update={"limit": None})
    return demo.model_copy(update={"calibration": calibration, "score": score})


class Clock:
    """A time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def forecast(clock: Clock) -> Forecast:
    """Two calibrations and a measurement that begins with 10 fixed seconds."""
    forecast = Forecast(clock)
    jobs = [Job("calibrate", "a", 60), Job("calibrate", "b", 120), Job("serve", "a", 30, fixed=10)]
    forecast.expect(jobs)
    return forecast


def test_nothing_is_told_before_anything_was_measured(forecast: Forecast, clock: Clock) -> None:
    assert forecast.estimate_left() is None
    forecast.begin(("calibrate", "a"))
    clock.now += 5
    assert forecast.estimate_left() is None


def test_shares_of_the_first_job_tell_the_pace_of_all(forecast: Forecast, clock: Clock) -> None:
    forecast.begin(("calibrate", "a"))
    clock.now += 500  # until everything is loaded
    forecast.tell(0.1)
    assert forecast.estimate_left() is None
    clock.now += 32
    forecast.tell(0.5)  # 24 of its 60 seconds: the pace is 4/3
    assert forecast.estimate_left() == pytest.approx(40 + 160 + 40 + 10)
    clock.now += 5
    assert forecast.estimate_left() == pytest.approx(35 + 160 + 40 + 10)


def test_kinds_have_a_pace_of_their_own(forecast: Forecast, clock: Clock) -> None:
    forecast.begin(("calibrate", "a"))
    clock.now += 120
    forecast.begin(("serve", "a"))
    clock.now += 25
    forecast.begin(None)
    assert forecast.estimate_left() == pytest.approx(240)
    forecast.expect([Job("calibrate", "b", 120), Job("serve", "b", 60, fixed=10)])
    assert forecast.estimate_left() == pytest.approx(240 + 30 + 10)


def test_job_that_tells_no_share_counts_down_and_then_slows_its_kind(
    forecast: Forecast, clock: Clock
) -> None:
    forecast.begin(("calibrate", "a"))
    clock.now += 60
    forecast.begin(("calibrate", "b"))
    clock.now += 20
    assert forecast.estimate_left() == pytest.approx(100 + 40)
    forecast.expect([Job("calibrate", "c", 10)])
    clock.now += 220
    assert forecast.estimate_left() == pytest.approx(24 + 20)


def test_jobs_that_fall_away_take_no_time(forecast: Forecast, clock: Clock) -> None:
    forecast.begin(("calibrate", "a"))
    clock.now += 60
    forecast.begin(None)
    forecast.expect([])
    assert forecast.estimate_left() == 0


def test_job_that_is_done_tells_the_pace_by_the_work_that_it_had(clock: Clock) -> None:
    """30 s for the work of ten; the work that is listed since is that of one."""
    forecast = Forecast(clock)
    forecast.expect([Job("check", "a", 10), Job("check", "b", 10)])
    forecast.begin(("check", "a"))
    clock.now += 30
    forecast.begin(None)
    forecast.expect([Job("check", "a", 1), Job("check", "b", 10)])
    assert forecast.estimate_left() == 30


def test_demo_is_told_within_a_factor_of_two_from_the_first_minute_on(
    tmp_path: Path, clock: Clock
) -> None:
    plan = matrix.expand(load_measured())
    costs = Costs(plan, Ledger(plan, tmp_path).list_due)
    (model,) = plan.suite.models
    costs.sizes[model] = SMOLLM
    costs.tasks = {task: (ASKED | WRITTEN)[task.name] for task in plan.tasks}
    pruned = [cell for cell in plan.cells if cell.solver]
    run: list[tuple[Key, float]] = [(calibration_of(model), CALIBRATING)]
    run += [(fit_of(c), RECONSTRUCTING if c.label == "reconstruct" else FITTING) for c in pruned]
    run += [(reload_of(cell), RELOADING) for cell in pruned]
    first = {cell.layers: cell for cell in reversed(plan.cells)}
    run += [(writing_of(first[layers]), seconds) for layers, seconds in WRITING.items()]
    run.append((check_of(model), CHECKING))
    run += [(pass_of(model, task), SCORING[task.name]) for task in plan.tasks if task.name in ASKED]
    run += [(serving_of(first[layers]), seconds) for layers, seconds in SERVING.items()]
    jobs = [*costs.list_jobs()]
    assert {job.key for job in jobs} == {key for key, _ in run}
    forecast, left = Forecast(clock), sum(seconds for _, seconds in run)
    forecast.expect(jobs)
    ratios = []
    for key, seconds in run:
        forecast.begin(key)
        for step in range(10):
            if key[0] != "serve":
                forecast.tell(step / 10)
            if clock.now >= 1060 and left > 30:
                told = forecast.estimate_left()
                assert told is not None
                ratios.append(told / left)
            clock.now += seconds / 10
            left -= seconds / 10
    assert len(ratios) > 300
    assert 0.5 < min(ratios) <= max(ratios) < 2


def test_task_that_leaves_the_one_pass_is_a_job_of_each_checkpoint(tmp_path: Path) -> None:
    plan = matrix.expand(load_measured(), ("*/baseline", "*/6/*"))
    costs, task = Costs(plan, Ledger(plan, tmp_path).list_due), plan.tasks[0]
    (model,) = plan.suite.models
    together = {job.key for job in costs.list_jobs()}
    costs.apart.add((model, task))
    apart = {job.key for job in costs.list_jobs()}
    assert together - apart == {pass_of(model, task)}
    assert apart - together == {scoring_of(cell, task) for cell in plan.cells}


def test_task_that_is_half_answered_takes_half_as_long(tmp_path: Path) -> None:
    plan = matrix.expand(load_measured(), ("*/baseline", "*/6/*"))
    costs, task = Costs(plan, Ledger(plan, tmp_path).list_due), plan.tasks[0]
    (model,) = plan.suite.models

    def work() -> float:
        return next(job.work for job in costs.list_jobs() if job.key == pass_of(model, task))

    whole = work()
    costs.left[model, task] = 0.5
    assert work() == 0.5 * whole > 0
