"""A measurement that something disturbed says so, and is in no ranking."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.card.tables import serving as card_section
from bench.compare.pick import Constraint, pick
from bench.leaderboard import leaderboard
from bench.leaderboard.table import Row, Table
from bench.leaderboard.view import sorted_by
from bench.page.document import document
from bench.plots import SCREEN, Figure, figures
from bench.records import Record, Serving
from bench.render import pick as rendered_pick
from bench.render import terminal
from bench.render.formats import FORMATS
from bench.results import open_results
from bench.run.resume import Retry, list_stages_due, recall_record
from bench.serving import device_name, find_noise
from bench.serving.neighbours import Watch, count_busy
from bench.serving.result import Distribution, Neighbours, ServingResult
from bench.store import Store, read_record
from bench.suite import matrix, suite
from tests.bench import cells

SAMPLES = Path(__file__).parent / "samples"
DEMO = Path(__file__).parent / "samples" / "demo"
QUIET: dict[str, Any] = {
    "other_cpu_share": [0.01, -0.005, 0.01],
    "own_cpu_share": [0.97, 0.98, 0.97],
    "load_average": [2.0, 2.0, 2.1],
    "other_gpu_processes": None,
    "sm_clock_mhz": None,
}
ON_GPU = {"other_gpu_processes": [0, 0, 0], "sm_clock_mhz": [1980, 1755, 1980]}
LATENCY = "latency:in128-out64-b1"


def change_loads(serving: Serving, **changes: Any) -> Serving:
    """A measurement of which every process and load says something else."""
    processes = [
        result.model_copy(
            update={"workloads": [load.model_copy(update=changes) for load in result.workloads]}
        )
        for result in serving.processes
    ]
    return Serving(identity=serving.identity, measured_on=serving.measured_on, processes=processes)


def beside(**changes: Any) -> Neighbours:
    return Neighbours.model_validate(QUIET | changes)


def disturb(serving: Serving) -> Serving:
    return change_loads(serving, neighbours=beside(other_cpu_share=[0.4, 0.5, 0.3]))


def judge(*, seconds: tuple[float, ...] = (1.0, 1.0, 1.0), gpu: bool = False, **changes: Any) -> str:
    """What is said of timed runs of so many seconds beside such neighbours."""
    serving = change_loads(
        cells.serving(1.0), neighbours=beside(**changes), latency_seconds=Distribution.of(seconds)
    )
    result = serving.result.model_copy(update={"threads": None} if gpu else {})
    return "; ".join(dict.fromkeys(find_noise(result).values()))


@pytest.mark.parametrize(
    ("changes", "noise"),
    [
        ({}, ""),
        ({"other_cpu_share": [0.04, 0.05, 0.05]}, ""),
        ({"other_cpu_share": [0.0, 0.0, 0.3]}, "other processes took 10% of the CPU time"),
        ({"other_cpu_share": [0.08] * 3}, "other processes took 8% of the CPU time"),
        ({"other_cpu_share": [0.3] * 3, "seconds": (0.02,) * 3}, ""),  # a tick or two
        ({"other_cpu_share": None, "own_cpu_share": None, "load_average": None}, ""),
        ({"seconds": (1.0, 1.1, 1.0)}, ""),
        ({"seconds": (1.0, 1.3, 1.0)}, "its timed runs spread by 24% of their median"),
        ({"seconds": (2.0,)}, ""),
        ({"gpu": True, "other_cpu_share": [0.6] * 3} | ON_GPU, ""),
        ({"gpu": True} | ON_GPU | {"other_gpu_processes": [0, 2, 1]}, "other processes on the GPU: 2"),
        (
            {"gpu": True} | ON_GPU | {"sm_clock_mhz": [1980, 1500, 1980]},
            "the GPU's clock fell from 1,980 to 1,500 MHz",
        ),
        (
            {"other_cpu_share": [0.5] * 3, "seconds": (1.0, 3.0, 2.0)},
            "other processes took 50% of the CPU time; its timed runs spread by 80% of their median",
        ),
    ],
)
def test_noise_is_what_lies_beyond_the_bounds(changes: dict[str, Any], noise: str) -> None:
    assert judge(**changes) == noise


def test_share_of_the_cpu_is_that_of_all_timed_runs_together() -> None:
    assert judge(seconds=(1.0, 1.0, 1.1), other_cpu_share=[0.0, 0.0, 0.17]) != ""
    assert judge(seconds=(1.1, 1.1, 1.0), other_cpu_share=[0.0, 0.0, 0.17]) == ""


def test_neighbours_of_several_processes_are_pooled_run_by_run() -> None:
    known = disturb(cells.serving(1.0, processes=2)).result.workloads[0]
    assert known.neighbours
    assert known.neighbours.other_cpu_share == [0.4, 0.5, 0.3, 0.4, 0.5, 0.3]
    assert known.neighbours.sm_clock_mhz is None
    unknown = disturb(cells.serving(1.0)).processes + cells.serving(1.0).processes
    assert ServingResult.pooled(unknown).workloads[0].neighbours is None


def test_demo_is_without_noise_and_an_old_record_from_a_busy_machine_is_not() -> None:
    demo = [record.serving for record in open_results(str(DEMO)).records.values()]
    assert [serving.noise for serving in demo if serving] == [{}] * len(demo)
    busy = read_record(SAMPLES / "schema-4-served.json").serving
    assert busy
    assert [*busy.noise.values()] == ["its timed runs spread by 406% of their median"]


# ---- what the engine's process notes


def test_a_core_is_busy_while_it_is_neither_idle_nor_waiting_for_a_disk() -> None:
    times = psutil.cpu_times()
    counted = dict.fromkeys(times._fields, 0.0) | {"user": 5.0, "system": 2.0, "idle": 100.0}
    on_linux = {"iowait": 10.0, "steal": 1.0, "guest": 3.0}  # a guest's time is in that of its user
    counted |= {name: seconds for name, seconds in on_linux.items() if name in times._fields}
    assert count_busy(times._replace(**counted)) == 7.0 + counted.get("steal", 0.0)


def test_own_time_is_told_from_that_of_others() -> None:
    watch = Watch(None)
    watch.start_run()
    started, used = time.monotonic(), time.process_time()
    with psutil.Popen([sys.executable, "-c", "while True: pass"]) as other:
        while time.monotonic() < started + 1:
            pass
        theirs = sum(other.cpu_times()[:2])
        watch.end_run()
        passed, used = time.monotonic() - started, time.process_time() - used
        other.kill()
    capacity = passed * len(watch.cores)
    found = watch.collect()
    assert found.own_cpu_share == pytest.approx([used / capacity], abs=0.03)
    assert found.other_cpu_share
    assert theirs / capacity - 0.03 < found.other_cpu_share[0] < 1.03 - used / capacity
    assert found.load_average
    assert found.other_gpu_processes is found.sm_clock_mhz is None


# ---- tables


@pytest.fixture
def records() -> list[Record]:
    """A baseline and two solvers at two cuts; something disturbed the measurement with four removed."""
    found = cells.matrix()
    for record in found:
        if record.layers == 4:
            assert record.serving
            record.serving = disturb(record.serving)
    return found


@pytest.fixture
def table(records: list[Record]) -> Table:
    return leaderboard.build(records)


def row_of(table: Table, label: str, layers: int) -> Row:
    (row,) = [row for row in table.rows if (row.label, row.layers) == (label, layers)]
    return row


def test_noisy_times_are_marked_and_sizes_are_not(table: Table) -> None:
    noisy = row_of(table, "lstsq", 4).list_noisy(table.columns)
    assert {key.partition(":")[0] for key in noisy} == {
        *("latency", "throughput", "ttft", "tpot", "speedup")
    }
    assert not row_of(table, "lstsq", 2).list_noisy(table.columns)


def test_remark_says_what_disturbed_it_once_for_all_solvers_of_a_shape(table: Table) -> None:
    assert [note for note in table.notes if note.startswith("?")] == [
        "?: noisy, so in no ranking and no speed-up; `run --retry-noisy` measures it again.",
        "? measured on m/1/x: b1 128→64: other processes took 40% of the CPU time; "
        "b8 128→64: other processes took 40% of the CPU time.",
    ]


def test_no_speed_up_is_computed_from_noise(records: list[Record], table: Table) -> None:
    assert row_of(table, "lstsq", 2).values["speedup"].number == pytest.approx(1.25)
    assert row_of(table, "lstsq", 4).values["speedup"].number is None
    assert records[0].serving
    records[0].serving = disturb(records[0].serving)
    assert {row.values["speedup"].number for row in leaderboard.build(records).rows} == {None}


def test_noisy_values_are_never_best_and_sort_last(table: Table) -> None:
    extra = cells.cell("other", 4, {"a": 0.2, "b": 0.2}, serving=cells.serving(9.0))
    rows = leaderboard.build([*cells.matrix()[:3], *_noisy_fours(), extra]).rows
    assert {row.label for row in rows if row.layers == 4 and row.values[LATENCY].best} == set()
    order = [row.layers for group in sorted_by(table, LATENCY).groups for row in group.rows]
    assert order == [2, 2, 0, 4, 4]


def _noisy_fours() -> list[Record]:
    found = cells.matrix()[3:]
    for record, factor in zip(found, (1.0, 2.0), strict=True):
        record.serving = disturb(cells.serving(factor))
    return found


def test_every_format_shows_the_mark(table: Table) -> None:
    assert "1,049?" in terminal.text(table)
    assert "| 1,049? |" in FORMATS["markdown"](table)
    rows = [*csv.DictReader(io.StringIO(FORMATS["csv"](table)))]
    assert [bool(row["noisy"]) for row in rows] == [False, False, False, True, True]
    assert LATENCY in rows[3]["noisy"]
    assert rows[3][f"{LATENCY} (ms)"] == "1049"
    values = [row["values"] for row in json.loads(FORMATS["json"](table))["groups"][0]["rows"]]
    assert [value[LATENCY]["noisy"] for value in values] == [False, False, False, True, True]


def test_page_says_it_in_words_and_sorts_without_it(records: list[Record], table: Table) -> None:
    page = document(records, table)
    assert '<td class="num">1,049?<span class="vh"> (noisy)</span></td>' in page
    assert "other processes took 40% of the CPU time" in page
    assert re.search(r"<dt>in128-out64-b1, other cpu share</dt><dd>0\.3 to 0\.5</dd>", page)


def test_card_shows_no_ratio_of_noise(records: list[Record]) -> None:
    (section,) = card_section(records[-1], records[0])
    line = next(line for line in section.splitlines() if line.startswith("| 1 × 128"))
    assert line.split("|")[2:5] == [" 2,098.0? ", " 1,049.0? ", " – "]
    assert "other processes took 40% of the CPU time" in section


# ---- charts


def test_noise_is_not_on_the_frontier(records: list[Record]) -> None:
    best = {"a": 0.9, "b": 0.9}  # and the fastest: it would leave the others nothing
    records[-1] = cells.cell("lstsq", 4, best, serving=records[-1].serving)
    figure = _chart(records, "latency-in128-out64-b1")
    on_line = {row[0]: row[-1] for row in figure.rows}
    assert on_line["lstsq, 4 removed"] == on_line["uidl, 4 removed"] == "noisy"
    assert {name for name, best in on_line.items() if best == "yes"} == {"baseline", "lstsq, 2 removed"}
    assert "Noisy measurements are pale" in figure.caption
    assert "Noisy" not in _chart(cells.matrix(), "latency-in128-out64-b1").caption


def test_shortest_shape_is_one_without_noise(records: list[Record]) -> None:
    figure = _chart(records, "times-in128-out64-b1")
    assert [row[0] for row in figure.rows] == ["baseline", "2 removed", "4 removed, noisy"]
    assert "the shortest is 2 removed" in figure.alt


def _chart(records: list[Record], name: str) -> Figure:
    return next(figure for figure in figures(records, SCREEN) if figure.name.endswith(name))


# ---- picking and measuring again


@pytest.fixture
def disturbed_demo(demo: Callable[..., Any]) -> Any:
    """The demo with the measurement with nine layers removed disturbed."""
    copy = demo("results")
    for solver in ("uidl", "lstsq", "cosine", "refit", "reconstruct"):
        copy.change(f"9/{solver}", _disturb_record)
    return copy


def _disturb_record(record: Record) -> None:
    assert record.serving
    record.serving = disturb(record.serving)


def test_noise_is_not_picked_and_the_answer_says_so(disturbed_demo: Any) -> None:
    results = open_results(str(disturbed_demo.folder))
    found = pick(results, [], "latency", None)
    assert found.chosen
    assert found.chosen.key[1] == 6  # nine layers less are faster, as far as one knows
    assert {candidate.key[1] for candidate in found.noisy} == {9}
    assert "Noisy, so unknown here: the times of SmolLM2-135M-Instruct/9/" in rendered_pick.text(
        found, None
    )
    fast = Constraint(LATENCY, "latency", " ms", False, 1e6)
    assert all(candidate.key[1] != 9 for candidate in pick(results, [fast], "quality", None).admissible)
    assert not pick(results, [], "quality", None).noisy


def test_only_what_is_noisy_is_measured_again_and_only_when_asked(
    write_suite: Callable[..., Path], tmp_path: Path
) -> None:
    loads = [{"input_len": 16, "output_len": 8, "batch_size": 1}]
    plan = matrix.expand(suite.load(write_suite(score=None, serve={"workloads": loads})))
    store = Store(tmp_path)
    for cell in plan.cells:
        record = recall_record(cell, plan, store)
        assert plan.suite.serve
        measured = cells.serving(1.0)
        identity = matrix.serving_identity({}, plan.suite.serve, cell.stem, device_name())
        record.serving = measured.model_copy(update={"identity": identity})
        if cell.layers:
            record.serving = disturb(record.serving)
        store.write(cell.stem, record)
    for retry, due in ((Retry(), []), (Retry(failed=True), []), (Retry(noisy=True), ["serve"])):
        for cell in plan.cells:
            stages = list_stages_due(recall_record(cell, plan, store, retry), plan)
            assert [stage for stage in stages if stage == "serve"] == (due if cell.layers else [])
