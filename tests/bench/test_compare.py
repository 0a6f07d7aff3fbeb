"""Two result sets → verdicts, their renderings, exit codes; the example for GitHub Actions."""

from __future__ import annotations

import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy import stats

from bench.compare import power, significance
from bench.compare.compare import compare
from bench.compare.comparison import Comparison, Marker, Options, Verdict
from bench.leaderboard import leaderboard
from bench.records import Failure, Record, Serving
from bench.render import comparison_markdown, comparison_terminal
from bench.results import open_results
from bench.serving.result import Distribution
from tests.bench import cells

CELLS = ("baseline", "6/lstsq")
FACTS, RETRIEVAL = "demo_facts", "demo_retrieval"
ROOT = Path(__file__).parents[2]


def compared(pair: tuple[Any, Any], **options: Any) -> Comparison:
    base, new = (open_results(str(copy.folder)) for copy in pair)
    return compare(base, new, Options(**options))


def verdict(found: Comparison, cell: str, what: str = "") -> Verdict:
    """The only verdict on a value."""
    (one,) = [v for v in found.verdicts if v.cell.endswith(f"/{cell}") and v.what == what]
    return one


def processes(record: Record, *factors: float) -> None:
    """Give a cell one engine process for each factor, with its own times multiplied by it."""
    assert record.serving is not None
    first = record.serving.processes[0]
    results = [
        first.model_copy(
            update={
                "workloads": [
                    load.model_copy(
                        update={
                            "latency_seconds": Distribution.of(
                                [factor * seconds for seconds in load.latency_seconds.values]
                            )
                        }
                    )
                    for load in first.workloads
                ]
            }
        )
        for factor in factors
    ]
    record.serving = record.serving.model_copy(update={"processes": results})


# ---- scores


def test_equal_results_are_no_regression(pair: tuple[Any, Any]) -> None:
    found = compared(pair)
    scores = [v for v in found.verdicts if v.kind == "score"]
    assert not found.regressions
    assert len(scores) == found.tests == 10
    assert {v.marker for v in found.verdicts} == {Marker.SAME}
    assert all(v.change and v.change.value == 0 and v.p_worse == 1 for v in scores)
    assert not found.changes


def test_lost_answers_are_a_regression_with_effect_interval_and_power(pair: tuple[Any, Any]) -> None:
    before = sum(pair[1].scores("6/lstsq", FACTS))
    pair[1].flip("6/lstsq", FACTS, losses=40, gains=8)
    found = compared(pair)
    worse = found.verdicts[0]
    assert worse == verdict(found, "6/lstsq", FACTS)
    assert (worse.marker, worse.regression) == (Marker.WORSE, True)
    assert (worse.losses, worse.gains, worse.items) == (40, 8, 400)
    assert worse.base == pytest.approx(100 * before / 400)
    assert worse.new == pytest.approx(100 * (before - 32) / 400)
    assert worse.change is not None
    assert worse.change.value == pytest.approx(-8)
    assert worse.change.low is not None
    assert worse.change.high is not None
    assert -12.5 < worse.change.low < -8 < worse.change.high < -3.5
    alone = stats.binomtest(40, 48, alternative="greater").pvalue
    assert worse.p_worse == pytest.approx(10 * alone)  # the smallest of ten
    assert worse.p_better == 1
    first_step = power.detectable_share(400, 48, 0.05 / 10)
    assert first_step is not None
    assert worse.detectable == pytest.approx(100 * first_step)
    assert 5 < worse.detectable < 8
    assert [v for v in found.verdicts if v.regression] == [worse]


def test_won_answers_are_better(pair: tuple[Any, Any]) -> None:
    pair[1].flip("6/lstsq", FACTS, losses=8, gains=40)
    found = verdict(compared(pair), "6/lstsq", FACTS)
    assert (found.marker, found.regression) == (Marker.BETTER, False)
    assert not compared(pair).regressions


def test_a_few_lost_answers_are_not_significant_and_the_power_says_what_could_be_seen(
    pair: tuple[Any, Any],
) -> None:
    pair[1].flip("6/lstsq", FACTS, losses=5)
    comparison = compared(pair)
    found = verdict(comparison, "6/lstsq", FACTS)
    assert found.marker is Marker.SAME
    assert found.p_worse == pytest.approx(10 * 2**-5)
    assert found.detectable is not None
    assert found.detectable > 1.25
    assert comparison.detectable is not None
    assert comparison.detectable[1] >= found.detectable


def test_significance_is_of_the_whole_comparison(pair: tuple[Any, Any]) -> None:
    """Seven losses are enough for one test, not for one of ten."""
    pair[1].flip("6/lstsq", FACTS, losses=7)
    many = compared(pair)
    for copy in pair:
        copy.change("6/lstsq", lambda record: _keep_task(record, FACTS))
        copy.change("baseline", lambda record: _keep_task(record))
    few = compared(pair)
    assert (many.tests, few.tests) == (10, 1)
    assert verdict(many, "6/lstsq", FACTS).marker is Marker.SAME
    assert verdict(few, "6/lstsq", FACTS).marker is Marker.WORSE


def _keep_task(record: Record, *names: str) -> None:
    record.quality = {name: record.quality[name] for name in names}


def test_stricter_alpha_asks_for_more(pair: tuple[Any, Any]) -> None:
    pair[1].flip("6/lstsq", FACTS, losses=11)
    assert compared(pair).regressions
    strict = compared(pair, alpha=0.001)
    assert not strict.regressions
    at = [verdict(c, "6/lstsq", FACTS).detectable for c in (compared(pair), strict)]
    assert at[0] is not None
    assert at[1] is not None
    assert at[0] < at[1]


def test_allowed_drop_is_worse_but_no_regression(pair: tuple[Any, Any]) -> None:
    pair[1].flip("6/lstsq", FACTS, losses=20)
    found = verdict(compared(pair, max_drop=5), "6/lstsq", FACTS)
    assert (found.marker, found.regression) == (Marker.WORSE, False)
    assert found.reason == "within --max-drop"
    assert compared(pair, max_drop=4.9).regressions


@pytest.mark.parametrize(("shift", "marker"), [(-0.3, Marker.WORSE), (0.3, Marker.BETTER)])
def test_perplexity_is_compared_by_log_likelihoods(
    pair: tuple[Any, Any], shift: float, marker: Marker
) -> None:
    rng = np.random.default_rng(0)
    for copy, change in zip(pair, (0.0, shift), strict=True):
        copy.set_perplexity("6/lstsq", RETRIEVAL, change * (1 + rng.standard_normal(400) / 2))
    found = verdict(compared(pair), "6/lstsq", RETRIEVAL)
    assert (found.marker, found.regression) == (marker, marker is Marker.WORSE)
    assert found.test == "sign-flip permutation"
    assert found.base is not None
    assert found.new is not None
    assert (found.new > found.base) == (shift < 0)  # a perplexity is worse when higher
    assert found.change is not None
    assert found.change.value == pytest.approx(100 * shift, abs=3)
    assert found.detectable is not None


def test_errors_count_downward(pair: tuple[Any, Any]) -> None:
    for copy in pair:
        copy.change(
            "6/lstsq",
            lambda r: setattr(r.quality[FACTS].metrics["acc_norm"], "higher_is_better", False),
        )
    pair[1].flip("6/lstsq", FACTS, gains=30)
    found = verdict(compared(pair), "6/lstsq", FACTS)
    assert (found.marker, found.losses) == (Marker.WORSE, 30)


def test_other_precision_is_compared_with_a_note(pair: tuple[Any, Any]) -> None:
    pair[1].change("6/lstsq", lambda record: setattr(record.quality[FACTS], "dtype", "float16"))
    found = verdict(compared(pair), "6/lstsq", FACTS)
    assert found.marker is Marker.SAME
    assert found.notes == ("computed in float32 → float16",)


# ---- what is not comparable


def _change_metric(record: Record) -> None:
    record.quality[FACTS].primary = "acc"


def _forget_direction(record: Record) -> None:
    record.quality[FACTS].metrics["acc_norm"].higher_is_better = None


def _other_weights(record: Record) -> None:
    cells.change_model(record, weights="other", dtype=None)


def _no_mean(record: Record) -> None:
    record.quality[FACTS].metrics["acc_norm"].value = 0.123


def _set_files(files: str, record: Record) -> None:
    cells.change_model(record, files=files)


def test_another_tokenizer_is_not_comparable_and_an_unknown_one_is(pair: tuple[Any, Any]) -> None:
    """Older records do not know what the model's other files were."""
    base, new = pair
    for copy, files in ((base, None), (new, "sha256:1"), (base, "sha256:2")):
        if files:
            copy.change("6/lstsq", partial(_set_files, files))
        reason = verdict(compared(pair), "6/lstsq", FACTS).reason or ""
        assert ("tokenizer or other files differ" in reason) == (files == "sha256:2")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda r: setattr(r.quality[FACTS], "version", "2.0"), "task version 1.0 → 2.0"),
        (lambda r: setattr(r.quality[FACTS], "num_fewshot", 5), "few-shot 0 → 5"),
        (lambda r: cells.change_task(r.quality[FACTS], limit=50), "limit none → 50"),
        (lambda r: cells.change_task(r.quality[FACTS], data="sha256:0"), "the task's data differ"),
        (_change_metric, "primary metric acc_norm → acc"),
        (_forget_direction, "whether a higher acc_norm is better is unknown"),
        (_other_weights, "the model's weights differ"),
        (_no_mean, "acc_norm of NEW is not the mean of its items' scores"),
    ],
)
def test_what_was_asked_otherwise_is_not_comparable(
    pair: tuple[Any, Any], edit: Callable[[Record], Any], reason: str
) -> None:
    pair[1].change("6/lstsq", edit)
    found = compared(pair)
    assert verdict(found, "6/lstsq", FACTS).marker is Marker.INCOMPARABLE
    assert verdict(found, "6/lstsq", FACTS).reason == reason
    assert not found.regressions
    assert "could not be compared" in comparison_terminal.text(found)


def _without_scores(samples: dict[str, Any]) -> None:
    del samples[FACTS]


def _other_items(samples: dict[str, Any]) -> None:
    samples[FACTS]["doc_id"][0] = 9999


def _repeated_items(samples: dict[str, Any]) -> None:
    samples[FACTS]["doc_id"][0] = samples[FACTS]["doc_id"][1]


def _broken_scores(samples: dict[str, Any]) -> None:
    samples[FACTS]["acc_norm"][0] = None


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (_without_scores, "NEW has no acc_norm of single items"),
        (_other_items, "the items differ: 1 only in BASE, 1 only in NEW"),
        (_repeated_items, "NEW has not one acc_norm for each item"),
        (_broken_scores, "acc_norm of some items of NEW is not a finite number"),
    ],
)
def test_other_items_are_not_comparable(
    pair: tuple[Any, Any], edit: Callable[[dict[str, Any]], None], reason: str
) -> None:
    stem = pair[1].stem("6/lstsq")
    samples = pair[1].store.read_samples(stem)
    edit(samples)
    pair[1].store.write_samples(stem, samples)
    found = verdict(compared(pair), "6/lstsq", FACTS)
    assert (found.marker, found.reason) == (Marker.INCOMPARABLE, reason)


def test_items_are_paired_by_their_ids_not_by_their_order(pair: tuple[Any, Any]) -> None:
    pair[1].reverse_items("6/lstsq", FACTS)
    found = verdict(compared(pair), "6/lstsq", FACTS)
    assert (found.losses, found.gains) == (0, 0)


def test_nothing_comparable_is_an_error_that_says_why(
    pair: tuple[Any, Any], call_here: Callable[..., Any], refused: Callable[..., None]
) -> None:
    """Also where latencies could be compared: no regression would be a lie about quality."""
    for cell in CELLS:
        for copy in pair:
            copy.change(cell, lambda record: processes(record, 1.0, 1.01))
        pair[1].change(
            cell, lambda record: [cells.change_task(t, limit=9) for t in record.quality.values()]
        )
    result = call_here("compare", pair[0].folder, pair[1].folder)
    refused(result, "can be compared: limit none → 9.")


def test_missing_baseline_is_an_error_that_names_it(
    pair: tuple[Any, Any], call_here: Callable[..., Any], refused: Callable[..., None]
) -> None:
    pair[1].remove("baseline")
    result = call_here("compare", pair[0].folder, pair[1].folder)
    refused(result, f"{pair[1].folder} has no baseline of SmolLM2-135M-Instruct")


# ---- what failed, came, went


def _fail(record: Record, stage: str) -> None:
    record.failures = [Failure(stage=stage, error="out of memory\nsecond line")]
    record.status = "failed"
    if stage == "prune":
        record.prune, record.quality, record.serving = None, {}, None
    elif stage == "serve":
        record.serving = None
    else:
        del record.quality[FACTS]


@pytest.mark.parametrize(("stage", "what"), [("prune", ""), ("score:demo_facts", FACTS), ("serve", "")])
def test_newly_failing_is_a_regression_unless_allowed(
    pair: tuple[Any, Any], stage: str, what: str
) -> None:
    pair[1].change("6/lstsq", lambda record: _fail(record, stage))
    found = verdict(compared(pair), "6/lstsq", what)
    assert (found.marker, found.regression) == (Marker.FAILING, True)
    assert found.reason == f"{stage}: out of memory"
    assert not compared(pair, allow_missing=True).regressions


def test_metric_that_became_nan_is_newly_failing(pair: tuple[Any, Any]) -> None:
    pair[1].change("6/lstsq", lambda r: setattr(r.quality[FACTS].metrics["acc_norm"], "value", None))
    found = verdict(compared(pair), "6/lstsq", FACTS)
    assert (found.marker, found.reason) == (Marker.FAILING, "the metric is not a finite number")


def test_gone_cells_tasks_and_measurements_are_regressions_unless_allowed(
    pair: tuple[Any, Any], demo: Callable[..., Any]
) -> None:
    base = demo("more", *CELLS, "6/uidl")
    pair[1].change("6/lstsq", lambda record: record.quality.pop(FACTS))
    pair[1].change("6/lstsq", lambda record: setattr(record, "serving", None))
    found = compared((base, pair[1]))
    gone = [(v.cell.split("/", 1)[1], v.kind, v.what) for v in found.verdicts if v.marker is Marker.GONE]
    expected = [("6/uidl", "cell", ""), ("6/lstsq", "score", FACTS), ("6/lstsq", "latency", "")]
    assert gone == expected
    assert len(found.regressions) == 3
    assert not compared((base, pair[1]), allow_missing=True).regressions


def test_new_cells_and_tasks_are_no_regression(pair: tuple[Any, Any], demo: Callable[..., Any]) -> None:
    new = demo("more", *CELLS, "6/uidl")
    pair[0].change("6/lstsq", lambda record: _fail(record, f"score:{FACTS}"))
    found = compared((pair[0], new))
    assert verdict(found, "6/uidl").marker is Marker.NEW
    task = verdict(found, "6/lstsq", FACTS)
    assert (task.marker, task.reason) == (Marker.NEW, "score:demo_facts: out of memory\nsecond line")
    assert not found.regressions


def test_what_fails_on_both_sides_is_not_comparable(pair: tuple[Any, Any]) -> None:
    for copy in pair:
        copy.change("6/lstsq", lambda record: _fail(record, f"score:{FACTS}"))
    found = verdict(compared(pair), "6/lstsq", FACTS)
    assert (found.marker, found.regression) == (Marker.INCOMPARABLE, False)


def test_latest_record_of_a_cell_is_compared(pair: tuple[Any, Any]) -> None:
    older = pair[1].record("6/lstsq").model_copy(update={"updated": "2000-01-01T00:00:00+00:00"})
    older.quality = {}
    pair[1].store.write("older", older)
    assert not compared(pair).regressions


# ---- averages


def test_averages_are_the_leaderboards_with_intervals_of_a_bootstrap(pair: tuple[Any, Any]) -> None:
    pair[1].flip("6/lstsq", FACTS, losses=40, gains=8)
    found = compared(pair)
    (changed,) = [a for a in found.averages if a.cell.endswith("6/lstsq")]
    tables = [leaderboard.build(copy.store.all().values()) for copy in pair]
    rows = [next(r for r in table.rows if r.layers == 6) for table in tables]
    assert changed.average == tuple(row.values["average"].number for row in rows)
    assert changed.rp == tuple(row.values["rp"].number for row in rows)
    assert changed.change is not None
    assert changed.change.low is not None
    assert changed.change.high is not None
    # the average of five tasks, of which one changed: sd of a share of paired differences
    down, up = 40 / 400, 8 / 400
    half = 1.96 * 100 * math.sqrt((down + up - (down - up) ** 2) / 400) / 5
    assert changed.change.value == pytest.approx(-8 / 5)
    assert changed.change.low == pytest.approx(-8 / 5 - half, abs=0.15)
    assert changed.change.high == pytest.approx(-8 / 5 + half, abs=0.15)
    assert changed.rp_change is not None
    assert changed.rp_change.low is not None
    assert changed.rp_change.low < changed.rp_change.value < 0
    (intact,) = [a for a in found.averages if a.cell.endswith("baseline")]
    assert intact.rp is None
    assert intact.change is not None
    assert intact.change.value == 0


def test_averages_over_other_tasks_are_not_set_against_each_other(pair: tuple[Any, Any]) -> None:
    pair[1].change("6/lstsq", lambda record: record.quality.pop(FACTS))
    assert [a.cell.split("/", 1)[1] for a in compared(pair).averages] == ["baseline"]


# ---- latency and sizes


@pytest.mark.parametrize(
    ("factors", "tolerance", "marker"),
    [
        ((1.2, 1.21, 1.19), 1.05, Marker.WORSE),
        ((1.2, 1.21, 1.19), 1.25, Marker.SAME),
        ((1.03, 1.031, 1.029), 1.05, Marker.SAME),
        ((0.8, 0.81, 0.79), 1.05, Marker.BETTER),
        ((1.0, 1.12, 1.06), 1.05, Marker.SAME),
    ],
)
def test_latency_is_judged_by_engine_processes_and_tolerance(
    pair: tuple[Any, Any], factors: tuple[float, ...], tolerance: float, marker: Marker
) -> None:
    pair[0].change("6/lstsq", lambda record: processes(record, 1.0, 1.01, 0.99))
    pair[1].change("6/lstsq", lambda record: processes(record, *factors))
    comparison = compared(pair, latency_tolerance=tolerance)
    found = [v for v in comparison.verdicts if v.kind == "latency" and v.cell.endswith("6/lstsq")]
    assert len(found) == 2
    for one in found:
        assert (one.marker, one.regression) == (marker, marker is Marker.WORSE)
        assert one.change is not None
        assert one.change.value == pytest.approx(stats.gmean(factors), rel=1e-3)
        assert one.base is not None
        assert one.new is not None
        assert one.new / one.base == pytest.approx(one.change.value)
        assert one.change.low is not None
        assert one.change.low < one.change.value
    assert bool(comparison.regressions) == (marker is Marker.WORSE)


def test_noisy_latency_is_not_comparable_and_says_what_disturbed_it(pair: tuple[Any, Any]) -> None:
    pair[0].change("6/lstsq", lambda record: processes(record, 1.0, 1.01, 0.99))
    pair[1].change("6/lstsq", lambda record: processes(record, 1.5, 2.5, 2.0))
    found = [v for v in compared(pair).verdicts if v.kind == "latency" and v.cell.endswith("6/lstsq")]
    assert len(found) == 2
    for one in found:
        assert (one.marker, one.regression, one.change) == (Marker.INCOMPARABLE, False, None)
        assert one.reason is not None
        assert re.fullmatch(r"noisy, new: its timed runs spread by \d+% of their median", one.reason)
        assert one.base and one.new and one.new > 1.5 * one.base


def _slower(p_low: float, p_high: float) -> list[float]:
    """Times of three processes that are slower than 1, 1.01, 0.99 with a probability in between."""
    for factor in np.linspace(1.0, 1.3, 3001):
        times = [factor * x for x in (1.0, 1.03, 0.97)]
        found = significance.ratio_of_times([1.0, 1.01, 0.99], times, 1.05).beyond
        if found is not None and p_low < found.worse < p_high:
            return times
    raise AssertionError


@pytest.fixture
def untimed(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """``pair`` with a baseline of one engine process, whose latencies cannot be judged."""
    for copy in pair:
        copy.change("baseline", lambda record: processes(record, 1.0))
    return pair


def test_latencies_are_a_family_of_their_own(untimed: tuple[Any, Any]) -> None:
    """A probability of 0.02 is enough for one of two latencies, not for one of four."""
    pair, times = untimed, _slower(0.019, 0.021)
    for cell, new in (("6/lstsq", times), ("baseline", [1.0, 1.01, 0.99])):
        pair[0].change(cell, lambda record: processes(record, 1.0, 1.01, 0.99))
        pair[1].change(cell, lambda record, new=new: processes(record, *new))
        markers = [v.marker for v in compared(pair).verdicts if v.kind == "latency" and v.test]
        assert markers == ([Marker.WORSE] * 2 if cell == "6/lstsq" else [Marker.SAME] * 4)


def test_latency_regresses_only_with_its_whole_interval(untimed: tuple[Any, Any]) -> None:
    """One-sided significance alone is not enough."""
    for copy, times in zip(untimed, ([1.0, 1.01, 0.99], _slower(0.035, 0.045)), strict=True):
        copy.change("6/lstsq", lambda record, times=times: _first_workload(record, times))
    (found,) = [v for v in compared(untimed).verdicts if v.kind == "latency" and v.test]
    assert found.p_worse is not None
    assert found.p_worse < 0.05
    assert found.marker is Marker.SAME


def _first_workload(record: Record, times: list[float]) -> None:
    processes(record, *times)
    assert record.serving is not None
    only = [p.model_copy(update={"workloads": p.workloads[:1]}) for p in record.serving.processes]
    record.serving = record.serving.model_copy(update={"processes": only})


def test_one_engine_process_is_no_verdict_on_latency(pair: tuple[Any, Any]) -> None:
    pair[0].change("6/lstsq", lambda record: processes(record, 1.0, 1.0, 1.0))
    pair[1].change("6/lstsq", lambda record: processes(record, 3.0))
    found = verdict(compared(pair), "6/lstsq", "in128-out64-b1")
    assert (found.marker, found.regression) == (Marker.SAME, False)
    assert found.reason is not None
    assert found.reason.startswith("3 and 1 engine processes")
    assert found.change is not None
    assert found.change.low is None


def _serving_with(record: Record, **changes: Any) -> Serving:
    assert record.serving is not None
    results = [result.model_copy(update=changes) for result in record.serving.processes]
    return record.serving.model_copy(update={"processes": results})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "NVIDIA H100"}, "→ NVIDIA H100"),
        ({"engine_version": "0.33.0"}, "→ 0.33.0"),
        ({"threads": 64}, "threads 2 → 64"),
    ],
)
def test_latencies_of_other_conditions_are_not_comparable(
    pair: tuple[Any, Any], changes: dict[str, Any], reason: str
) -> None:
    pair[1].change(
        "6/lstsq", lambda record: setattr(record, "serving", _serving_with(record, **changes))
    )
    found = verdict(compared(pair), "6/lstsq")
    assert (found.kind, found.marker) == ("latency", Marker.INCOMPARABLE)
    assert reason in (found.reason or "")


def test_latencies_under_other_settings_are_not_comparable_but_more_processes_are(
    pair: tuple[Any, Any],
) -> None:
    def settings(record: Record, **changes: Any) -> None:
        assert record.serving is not None
        record.serving.identity.settings.update(changes)

    pair[1].change("6/lstsq", lambda record: settings(record, processes=7))
    assert not [v for v in compared(pair).verdicts if v.marker is Marker.INCOMPARABLE]
    pair[1].change("6/lstsq", lambda record: settings(record, warmup=7))
    assert "warmup 1 → 7" in (verdict(compared(pair), "6/lstsq").reason or "")


def test_measurement_shared_by_cells_is_judged_once(demo: Callable[..., Any]) -> None:
    copies = demo("base", "baseline", "6/lstsq", "6/uidl"), demo("new", "baseline", "6/lstsq", "6/uidl")
    found = [v for v in compared(copies).verdicts if v.kind == "latency" and v.key[1] == 6]
    assert len(found) == 2
    assert {v.notes for v in found} == {("measured once for 2 cells",)}


def test_sizes_that_changed_are_shown_and_no_regression(pair: tuple[Any, Any]) -> None:
    def grow(record: Record) -> None:
        assert record.prune is not None
        record.prune.parameters += 1_000_000

    pair[1].change("6/lstsq", grow)
    found = verdict(compared(pair), "6/lstsq", "parameters")
    assert (found.marker, found.regression) == (Marker.CHANGED, False)
    assert found.change is not None
    assert found.change.value == 1_000_000


def test_what_was_made_differently_is_told(pair: tuple[Any, Any]) -> None:
    def newer(record: Record) -> None:
        cells.change_solver(record, version=99)
        assert record.prune is not None
        record.prune.blocks = [(1, 7)]

    before = pair[0].record("6/lstsq")
    assert before.prune is not None
    pair[1].change("6/lstsq", newer)
    (made,) = compared(pair).changes.values()
    block = "[{}, {})".format(*before.prune.blocks[0])
    assert before.identity.prune
    version = before.identity.prune.solver.version
    assert made == [f"removed layers: {block} → [1, 7)", f"solver.version: {version} → 99"]


# ---- record files and revisions


def test_record_file_picks_its_cell_out_of_a_folder(pair: tuple[Any, Any]) -> None:
    base = open_results(str(pair[0].folder))
    new = open_results(str(pair[1].file("6/lstsq")))
    found = compare(base, new)
    assert {v.key[1] for v in found.verdicts} == {6}
    assert not found.regressions


def test_two_record_files_are_compared_whatever_their_cells_are(demo: Callable[..., Any]) -> None:
    copy = demo("a", "6/lstsq", "6/uidl")
    base, new = (open_results(str(copy.file(cell))) for cell in ("6/lstsq", "6/uidl"))
    found = compare(base, new)
    assert found.tests == 5
    scores = [np.array(copy.scores(cell, RETRIEVAL)) for cell in ("6/lstsq", "6/uidl")]
    one = verdict(found, "6/uidl", RETRIEVAL)
    assert (one.losses, one.gains) == ((scores[1] < scores[0]).sum(), (scores[1] > scores[0]).sum())


@pytest.mark.slow
def test_git_revision_is_compared_with_the_work_tree(
    demo: Callable[..., Any],
    commit: Callable[[str], str],
    call: Callable[..., Any],
    tmp_path: Path,
) -> None:
    copy = demo("results", *CELLS)
    commit("good")
    copy.flip("6/lstsq", FACTS, losses=40)
    commit("bad")
    assert call("compare", "HEAD:results", "results", cwd=tmp_path).returncode == 0
    worse = call("compare", "HEAD~1:results", "HEAD:results", cwd=tmp_path)
    assert worse.returncode == 1
    assert "Regression: 1 score worse." in worse.stdout


# ---- command line and renderings


def test_exit_code_is_1_for_a_regression_and_0_else(
    pair: tuple[Any, Any], call_here: Callable[..., Any]
) -> None:
    assert call_here("compare", pair[0].folder, pair[1].folder).returncode == 0
    pair[1].flip("6/lstsq", FACTS, losses=40)
    arguments = ["compare", pair[0].folder, pair[1].folder]
    assert call_here(*arguments).returncode == 1
    assert call_here(*arguments, "--max-drop", 10).returncode == 0
    assert call_here(*arguments, "--alpha", "1e-12").returncode == 0
    assert call_here(*arguments, "--alpha", "2").returncode == 2


def test_json_is_alone_on_stdout_and_holds_everything(
    pair: tuple[Any, Any], call_here: Callable[..., Any], tmp_path: Path
) -> None:
    pair[1].flip("6/lstsq", FACTS, losses=40)
    result = call_here("compare", pair[0].folder, pair[1].folder, "--json")
    content = json.loads(result.stdout)
    assert content["regression"] is True
    assert content["format"] == 1
    assert len(content["verdicts"]) == len(compared(pair).verdicts)
    first = content["verdicts"][0]
    assert (first["model"], first["layers"], first["label"]) == ("SmolLM2-135M-Instruct", 6, "lstsq")
    assert (first["what"], first["marker"], first["losses"]) == (FACTS, "worse", 40)
    assert first["change"]["value"] == pytest.approx(-10)
    keys = ["base", "new", "options", "tests", "detectable_points", "averages", "changes", "summary"]
    assert not set(keys) - set(content)
    file = tmp_path / "out.json"
    again = call_here("compare", pair[0].folder, pair[1].folder, "--format", "json", "-o", file)
    assert (again.returncode, again.stdout) == (1, "")
    assert json.loads(file.read_text()) == content


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_output_fits_and_begins_with_the_verdict(pair: tuple[Any, Any], width: int) -> None:
    pair[1].flip("6/lstsq", FACTS, losses=40, gains=8)
    pair[1].flip("6/lstsq", RETRIEVAL, losses=3, gains=1)
    pair[1].change("6/lstsq", lambda record: record.quality.pop("demo_causes"))
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    comparison_terminal.render(compared(pair), console)
    shown = file.getvalue().splitlines()
    assert max(map(len, shown)) <= width
    assert shown[0] == "Regression: 1 score worse, 1 score gone."
    table = [line for line in shown if "lstsq" in line]
    assert table[0].split()[:4] == ["↓!", "6/lstsq", "facts", table[0].split()[3]]
    assert "−8.0" in table[0]
    assert " to " in table[0]
    text = " ".join(" ".join(shown).split())
    assert "of them equal item by item (--all shows them)" in text
    assert "α = 0.05" in text
    assert "would have been found with 80 % power" in text


def test_all_shows_what_is_equal(pair: tuple[Any, Any], call_here: Callable[..., Any]) -> None:
    shown = [
        call_here("compare", pair[0].folder, pair[1].folder, *flags).stdout for flags in ([], ["--all"])
    ]
    assert shown[0].count("6/lstsq") < shown[1].count("6/lstsq")
    assert "--all" not in shown[1]


def test_every_marker_has_its_symbol_in_the_table(demo: Callable[..., Any]) -> None:
    base, new = demo("base", *CELLS, "6/uidl"), demo("new", *CELLS, "6/cosine")
    new.flip("6/lstsq", FACTS, losses=40)
    new.flip("6/lstsq", RETRIEVAL, gains=40)
    new.flip("6/lstsq", "demo_lastword", losses=2)
    new.change("6/lstsq", lambda r: setattr(r.quality["demo_causes"], "version", "2"))
    new.change("6/lstsq", lambda r: r.quality.pop("demo_grammar"))
    new.change("6/lstsq", lambda r: setattr(r.prune, "parameters", 1))
    failure = Failure(stage="score:demo_grammar", error="no luck")
    new.change("6/lstsq", lambda r: r.failures.append(failure))
    found = compared((base, new), max_drop=1)
    assert {v.marker for v in found.verdicts} == set(Marker)
    for text in (comparison_terminal.text(found), comparison_markdown.render(found)):
        for marker in Marker:
            assert marker.value in text
        assert "no luck" in text
        assert "task version 1.0 → 2" in text


def test_markdown_is_safe_whatever_names_hold(demo: Callable[..., Any]) -> None:
    copies = demo("base", "baseline", "6/lstsq"), demo("new", "baseline", "6/lstsq")
    name = "a|b<img src=x onerror=alert(1)>\x1b[31m`@all`[x](http://x)"
    for copy in copies:
        copy.change("6/lstsq", lambda record: setattr(record, "label", name))
    copies[1].flip(f"6/{name}", FACTS, losses=40)
    found = compared(copies)
    text = comparison_markdown.render(found)
    (row,) = [line for line in text.splitlines() if line.startswith("| ↓")]
    assert row.replace("\\|", "").count("|") == 10
    for raw in ("\\<img", "\\`"):
        assert raw in row
    for rendering in (text, comparison_terminal.text(found)):
        assert "\x1b" not in rendering


def test_markdown_fits_a_comment_and_folds_what_is_not_significant(demo: Callable[..., Any]) -> None:
    copies = demo("base"), demo("new")
    for cell in ("3/uidl", "6/uidl", "9/uidl", "6/lstsq"):
        copies[1].flip(cell, FACTS, losses=4)
    text = comparison_markdown.render(compared(copies))
    assert text.startswith("### ✅ No regression.")
    assert "<details><summary>" in text
    assert len(text) < 65_536


# ---- the workflow


def workflow() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / ".github/workflows/quality.yml").read_text("utf-8"))
    assert isinstance(content, dict)
    return content


@pytest.mark.slow
def test_workflow_fails_a_pull_request_on_a_regression_alone(
    demo: Callable[..., Any], commit: Callable[[str], str], tmp_path: Path
) -> None:
    """Its commands, in a repository with the base branch's results and the run of the pull request."""
    steps = {step["name"]: step for step in workflow()["jobs"]["quality"]["steps"] if "name" in step}
    (tmp_path / "results").mkdir()
    demo("results/demo", *CELLS)
    head = commit("results of the base branch")
    refs = ["git", "update-ref", "refs/remotes/origin/main", head]
    subprocess.run(refs, cwd=tmp_path, check=True)
    (tmp_path / "runs").mkdir()
    run = demo("runs/demo", *CELLS)
    binaries = tmp_path / ".venv" / "bin"
    binaries.parent.mkdir()
    binaries.symlink_to(Path(sys.executable).parent)
    summary = tmp_path / "summary.md"
    env = os.environ | {"GITHUB_BASE_REF": "main", "GITHUB_STEP_SUMMARY": str(summary)}

    def execute(name: str) -> int:
        command = ["bash", "-e", "-c", steps[name]["run"]]
        return subprocess.run(command, cwd=tmp_path, env=env, check=False).returncode

    assert execute("Compare") == 0
    assert execute("Show") == 0
    assert summary.read_text().startswith("### ✅ No regression.")
    run.flip("6/lstsq", FACTS, losses=40)
    summary.unlink()
    assert execute("Compare") == 1
    assert execute("Show") == 0
    assert "### ❌ Regression: 1 score worse." in summary.read_text()
    assert steps["Show"]["if"] == "always()"


def test_workflow_runs_a_suite_that_exists_and_fetches_the_base_branch(
    call: Callable[..., Any],
) -> None:
    steps = workflow()["jobs"]["quality"]["steps"]
    (command,) = [step["run"] for step in steps if step.get("name") == "Run"]
    program, verb, *arguments = command.split()
    assert (program, verb) == (".venv/bin/replaceme-bench", "run")
    assert call("plan", *arguments, cwd=ROOT).returncode == 0
    assert steps[0]["with"]["fetch-depth"] == 0
    assert workflow()[True] == "pull_request"  # YAML reads the key on as true
