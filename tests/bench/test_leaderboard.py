"""Records → table model → renderings."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from bench.leaderboard import leaderboard
from bench.records import Failure, Metric, Prune, Record, Serving, Task
from bench.render import terminal
from bench.render.formats import FORMATS
from bench.render.formats import csv as csv_format
from bench.render.formats import json as json_format
from bench.serving import ServingResult
from tests.bench.cells import SETTINGS


def serving(latency: float, device: str = "CPU, 2 cores") -> Serving:
    """A measurement of one workload with one timed run."""
    times = {"values": [latency], "p50": latency, "p90": latency, "p99": latency}
    load = {
        "workload": {"input_len": 128, "output_len": 64, "batch_size": 1},
        "latency_seconds": times,
        "ttft_seconds": times,
        "tpot_seconds": times,
        "output_tokens_per_second": 64 / latency,
        "requests_per_second": 1 / latency,
    }
    memory = {
        "weights_bytes": 269_000_000,
        "kv_bytes_per_token": 23_040,
        "kv_capacity_tokens": 40_000,
        "kv_pool_bytes": 2**30,
        "peak_process_memory_bytes": None,
        "peak_device_memory_bytes": None,
    }
    result = {
        "engine": "vllm",
        "engine_version": "0.32.0",
        "device": device,
        "dtype": "bfloat16",
        "threads": 2,
        "start_seconds": 3.0,
        "engine_settings": SETTINGS,
        "workloads": [load],
        "replay_cached_tokens": 0,
        "memory": memory,
    }
    return Serving(identity={}, measured_on="x", processes=[ServingResult.model_validate(result)])


def record(label: str, layers: int, scores: dict[str, float], **changes: Any) -> Record:
    """A complete record with 100 items a task."""
    quality = {
        name: Task(
            identity={},
            primary="acc",
            average=not name.startswith("extra"),
            metrics={
                "acc": Metric(value=score, stderr=0.03, higher_is_better=True),
                "perplexity": Metric(value=12.5, stderr=None, higher_is_better=False),
            },
            items=100,
            version="1.0",
            num_fewshot=0,
            seconds=1.0,
        )
        for name, score in scores.items()
    }
    prune = Prune(
        blocks=[(13, 13 + layers)] if layers else [],
        loss=(3.9, 3.9 if label == "uidl" else 3.456) if layers else None,
        intact_loss=3.1 if layers else None,
        dtype="bfloat16",
        parameters=134_000_000 - 3_500_000 * layers,
        checkpoint_bytes=268_000_000,
    )
    options = {"model": "m", "model_id": "m", "identity": {}, "status": "complete", "prune": prune}
    return Record(label=label, layers=layers, quality=quality, **(options | changes))


@pytest.fixture
def records() -> list[Record]:
    return [
        record("baseline", 0, {"a": 0.8, "b": 0.6, "extra": 0.1}, serving=serving(2.0)),
        record("uidl", 3, {"a": 0.6, "b": 0.4, "extra": 0.1}, serving=serving(1.6)),
        record("lstsq", 3, {"a": 0.7, "b": 0.5, "extra": 0.1}, serving=serving(1.6)),
        record("uidl", 6, {"a": 0.5, "b": 0.3, "extra": 0.1}, serving=serving(1.0)),
    ]


def row(table: leaderboard.Table, label: str, layers: int) -> leaderboard.Row:
    rows = [row for group in table.groups for row in group.rows]
    return next(r for r in rows if r.values["label"].text == label and r.layers == layers)


def number(found: leaderboard.Row, key: str) -> float:
    value = found.values[key].number
    assert value is not None
    return value


def test_average_takes_primary_metrics_of_the_tasks_that_count(records: list[Record]) -> None:
    table = leaderboard.build(records)
    average = row(table, "baseline", 0).values["average"]
    assert average.number == pytest.approx(70)
    assert average.stderr == pytest.approx(100 * math.sqrt(2 * 0.03**2) / 2)
    assert "mean of a (acc), b (acc)," in table.notes[0]


def test_quality_and_speed_are_relative_to_the_baseline(records: list[Record]) -> None:
    table = leaderboard.build(records)
    found = row(table, "lstsq", 3)
    assert number(found, "rp") == pytest.approx(100 * 60 / 70)
    assert number(found, "speedup") == pytest.approx(2.0 / 1.6)
    assert number(found, "compression") == pytest.approx(100 * 3 * 3.5 / 134)
    assert number(row(table, "baseline", 0), "rp") == pytest.approx(100)


def test_best_of_each_layer_count_is_marked_where_there_is_a_choice(records: list[Record]) -> None:
    table = leaderboard.build(records)
    marked = [r.values["label"].text for group in table.groups for r in group.rows if r.best]
    assert marked == ["lstsq"]


def test_loss_is_that_of_the_variant_and_of_the_intact_model(records: list[Record]) -> None:
    table = leaderboard.build(records)
    (column,) = [column for column in table.columns if column.key == "loss"]
    assert (column.unit, column.better) == ("nats", "lower")
    shown = [leaderboard.show(r.values["loss"], column) for r in table.groups[0].rows]
    assert shown == ["3.100", "3.456", "3.900", "3.900"]
    assert "loss: nats per token of calibration text that was held back from the fit." in table.notes


def test_without_held_back_tokens_there_is_no_loss_column(records: list[Record]) -> None:
    for found in records:
        assert found.prune
        found.prune.loss = None
    table = leaderboard.build(records)
    assert "loss" not in {column.key for column in table.columns}
    assert not [note for note in table.notes if note.startswith("loss")]


def test_loss_that_is_unknown_or_not_finite_is_a_dash(records: list[Record]) -> None:
    for found, loss in zip(records[1:3], (None, (3.9, None)), strict=True):
        assert found.prune
        found.prune.loss = loss
    table = leaderboard.build(records)
    assert row(table, "uidl", 3).values["loss"].number is None
    assert row(table, "lstsq", 3).values["loss"].number is None
    assert number(row(table, "baseline", 0), "loss") == 3.1


def test_several_blocks_of_a_variant_are_all_shown(records: list[Record]) -> None:
    assert records[3].prune
    records[3].prune.blocks = [(3, 6), (9, 12)]
    table = leaderboard.build(records)
    assert row(table, "uidl", 6).values["block"].text == "[3, 6) [9, 12)"
    assert "[3, 6) [9, 12)" in terminal.text(table)


@pytest.mark.parametrize(("width", "expected"), [(80, False), (120, True), (200, True)])
def test_loss_gives_way_to_average_and_speed_on_a_narrow_terminal(
    records: list[Record], width: int, expected: bool
) -> None:
    shown = {column.key for column in terminal.fitting(leaderboard.build(records), width)}
    assert {"label", "layers", "average", "rp", "speedup", "weights"} <= shown
    assert ("loss" in shown) == expected


def test_rows_of_different_devices_are_not_compared(records: list[Record]) -> None:
    records[2].serving = serving(0.1, device="GPU")
    assert row(leaderboard.build(records), "lstsq", 3).values["speedup"].number is None


def test_unknown_is_a_dash_not_zero(records: list[Record]) -> None:
    records[1].serving = None
    records[1].quality = {}
    table = leaderboard.build(records)
    found = row(table, "uidl", 3)
    shown = {c.key: leaderboard.show(found.values[c.key], c) for c in table.columns}
    assert shown["average"] == shown["rp"] == shown["speedup"] == shown["peak"] == "–"
    assert json.loads(json_format.render(table))


def test_average_of_a_cell_with_a_failed_task_is_unknown(records: list[Record]) -> None:
    records[1].failures = [Failure(stage="score:b", error="out of memory")]
    del records[1].quality["b"]
    assert row(leaderboard.build(records), "uidl", 3).values["average"].number is None


def test_average_of_a_cell_that_lacks_a_task_of_the_others_is_unknown(records: list[Record]) -> None:
    del records[1].quality["b"]
    table = leaderboard.build(records)
    assert row(table, "uidl", 3).values["average"].number is None
    assert row(table, "uidl", 3).values["rp"].number is None
    assert number(row(table, "lstsq", 3), "rp") == pytest.approx(100 * 60 / 70)
    del records[0].quality["extra"]  # which does not count
    assert number(row(leaderboard.build(records), "lstsq", 3), "rp") == pytest.approx(100 * 60 / 70)


def test_failure_without_words_and_a_model_without_parameters_are_shown(records: list[Record]) -> None:
    records[1].failures = [Failure(stage="serve", error=""), Failure(stage="prune", error="x" * 999)]
    assert records[0].prune
    records[0].prune.parameters = 0
    table = leaderboard.build(records)
    failure = row(table, "uidl", 3).failure
    assert failure == f"serve: ; prune: {'x' * (600 - len('serve: ; prune: '))} …"
    assert row(table, "lstsq", 3).values["compression"].number is None


def test_best_value_of_a_column_is_that_of_its_cut_and_model(records: list[Record]) -> None:
    records.append(record("lstsq", 6, {"a": 0.5, "b": 0.2, "extra": 0.3}, serving=serving(1.0)))
    rows = leaderboard.build(records).groups[0].rows
    best = {
        (r.layers, r.label): {key for key, value in r.values.items() if value.best}
        for r in rows
        if r.layers
    }
    assert best == {
        (3, "lstsq"): {"average", "rp", "loss", "task:a", "task:b"},
        (3, "uidl"): set(),
        (6, "uidl"): {"average", "rp", "task:b"},
        (6, "lstsq"): {"loss", "task:extra"},
    }


def test_tasks_scored_in_two_ways_are_both_named(records: list[Record]) -> None:
    records[1].quality["a"].num_fewshot = 5
    text = terminal.text(leaderboard.build(records))
    assert "0-shot, 100 items, task version 1.0: a acc, b acc, extra acc (not in avg)" in text
    assert "; 5-shot, 100 items, task version 1.0: a acc." in text


def test_wide_characters_stay_within_the_width(records: list[Record]) -> None:
    for found in records[1:]:
        found.label = "中文" * 10 + found.label
    file = io.StringIO()
    table = leaderboard.build(records)
    terminal.render(table, Console(file=file, width=100, force_terminal=True, color_system=None))
    assert max(map(cell_len, file.getvalue().splitlines())) <= 100
    assert "…" not in file.getvalue()


def test_latest_of_several_records_of_a_cell_counts(records: list[Record]) -> None:
    records[1].updated = "2026-01-01T00:00:00+00:00"
    newer = record("uidl", 3, {"a": 0.1, "b": 0.1, "extra": 0.1})
    newer.updated = "2026-02-01T00:00:00+00:00"
    table = leaderboard.build([newer, *records])
    assert number(row(table, "uidl", 3), "average") == pytest.approx(10)
    assert "1 older records of the same cells are not shown." in table.notes


def test_models_are_groups_of_their_own(records: list[Record]) -> None:
    other = record("baseline", 0, {"a": 0.5, "b": 0.5, "extra": 0.1}, model="other")
    table = leaderboard.build([*records, other])
    assert [group.title.split(" ")[0] for group in table.groups] == ["m", "other"]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_terminal_table_fits_and_names_what_it_leaves_out(records: list[Record], width: int) -> None:
    table = leaderboard.build(records)
    file = io.StringIO()
    terminal.render(table, Console(file=file, width=width, force_terminal=True, color_system=None))
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    heads = " ".join(file.getvalue().split())
    for column in table.columns:
        shown = column in terminal.fitting(table, width)
        assert shown or column.header in heads.split("Not shown at this width:")[1]
    assert "avg" in heads
    assert "RP" in heads
    assert "…" not in file.getvalue()


def test_columns_of_the_tasks_are_shown_together_or_not_at_all(records: list[Record]) -> None:
    table = leaderboard.build(records)
    for width in range(40, 300):
        shown = [column.key.startswith("task:") for column in terminal.fitting(table, width)]
        assert sum(shown) in (0, 3)


def test_large_numbers_have_no_decimals() -> None:
    column = leaderboard.Column("ppl", "ppl", "", 0)
    shown = [leaderboard.show(leaderboard.Value(x), column) for x in (12.34, 999.96, 1234.5, 1e6)]
    assert shown == ["12.3", "1,000.0", "1,234", "1,000,000"]


def test_piped_table_has_every_column_and_no_escapes(records: list[Record]) -> None:
    table = leaderboard.build(records)
    text = terminal.text(table)
    assert "\x1b" not in text
    assert "Not shown" not in text
    assert len(terminal.fitting(table, 10**6)) == len(table.columns)


@pytest.mark.parametrize("render", [terminal.text, *FORMATS.values()])
def test_every_rendering_shows_failures_with_their_reason(records: list[Record], render: Any) -> None:
    records[3] = record(
        "uidl", 6, {}, status="failed", prune=None, failures=[Failure(stage="prune", error="no luck")]
    )
    text = render(leaderboard.build(records)).replace("&#160;", " ")
    assert "prune: no luck" in text


def test_csv_has_plain_numbers_in_named_units(records: list[Record]) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_format.render(leaderboard.build(records)))))
    assert len(rows) == 4
    found = next(line for line in rows if line["label"] == "lstsq")
    assert float(found["average (%)"]) == pytest.approx(60)


def test_warning_about_a_fit_is_a_mark_and_a_note(records: list[Record]) -> None:
    assert records[3].prune
    records[3].prune.warning = "the fit is worse than plain removal"
    text = terminal.text(leaderboard.build(records))
    assert "uidl !" in text
    assert "! uidl at 6: the fit is worse than plain removal." in text
