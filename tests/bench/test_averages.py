"""Which primary metrics are in the average: shares of 1; perplexities, bits and BLEU stand apart."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.leaderboard import leaderboard
from bench.leaderboard.averages import average, counted, is_share
from bench.records import Metric, Record, Task
from bench.render import terminal
from bench.render.formats import FORMATS
from bench.store import Store
from tests.bench import cells


def task(metric: str, value: float | None, higher: bool | None, stderr: float | None = 0.02) -> Task:
    return Task(
        identity={},
        primary=metric,
        average=True,
        metrics={metric: Metric(value=value, stderr=stderr, higher_is_better=higher)},
        items=100,
        version="1.0",
        num_fewshot=0,
        seconds=1.0,
    )


def cell(label: str, layers: int, **tasks: Task) -> Record:
    record = cells.cell(label, layers, {})
    record.quality.update(tasks)
    return record


@pytest.mark.parametrize(
    ("metric", "value", "higher", "share"),
    [
        ("acc", 0.5, True, True),
        ("acc_norm", 0.0, True, True),
        ("exact_match,strict-match", 1.0, True, True),
        ("mcc", -0.2, True, True),
        ("acc", None, True, True),
        ("custom", 0.4, None, True),
        ("word_perplexity", 12.0, False, False),
        ("perplexity", 1.0, None, False),
        ("bits_per_byte", 0.8, False, False),
        ("bleu", 0.7, True, False),
        ("rougeL,none", 0.3, True, False),
        ("rate", 0.3, False, False),
        ("score", 55.0, True, False),
    ],
)
def test_shares_are_told_from_what_only_looks_like_them(
    metric: str, value: float | None, higher: bool | None, share: bool
) -> None:
    assert is_share(task(metric, value, higher)) is share


def records() -> list[Record]:
    """An intact model and a variant with an accuracy, word perplexity, bits per byte and BLEU."""
    return [
        cell(
            label,
            layers,
            facts=task("acc", acc, True),
            text=task("word_perplexity", perplexity, False, None),
            bytes=task("bits_per_byte", bits, False, 0.01),
            translation=task("bleu", bleu, True, 0.5),
        )
        for label, layers, acc, perplexity, bits, bleu in (
            ("baseline", 0, 0.8, 12.5, 0.75, 30.25),
            ("lstsq", 4, 0.6, 20.0, 0.95, 0.9),
            ("refit", 4, 0.5, 30.0, 0.85, 10.5),
        )
    ]


def test_average_and_rp_are_over_shares_alone() -> None:
    found = records()
    assert counted(found) == {"facts"}
    assert average(found[0]).number == pytest.approx(80.0)
    assert average(found[0]).stderr == pytest.approx(2.0)
    rows = {row.label: row.values for row in leaderboard.build(found).rows}
    assert rows["lstsq"]["average"].number == pytest.approx(60.0)
    assert rows["lstsq"]["rp"].number == pytest.approx(75.0)


def test_other_metrics_are_shown_unscaled_with_their_own_direction() -> None:
    table = leaderboard.build(records())
    columns = {column.key: column for column in table.columns}
    shown = {key: (columns[key].unit, columns[key].better) for key in columns if key.startswith("task:")}
    assert shown == {
        "task:facts": ("%", "higher"),
        "task:text": ("", "lower"),
        "task:bytes": ("", "lower"),
        "task:translation": ("", "higher"),
    }
    rows = {row.label: row.values for row in table.rows}
    assert rows["lstsq"]["task:text"].number == 20.0
    assert rows["lstsq"]["task:bytes"].number == 0.95
    assert rows["lstsq"]["task:bytes"].stderr == 0.01
    assert rows["lstsq"]["task:translation"].number == 0.9  # of 100, though it could be a share
    assert rows["refit"]["task:bytes"].best and not rows["lstsq"]["task:bytes"].best
    assert rows["lstsq"]["task:text"].best and not rows["refit"]["task:text"].best
    text = terminal.text(table)
    assert "0.950 ±0.010" in text
    assert "avg: mean of facts (acc), ± one standard error." in re.sub(r"\s+", " ", text)
    assert re.sub(r"\s+", " ", text).count("(not in avg)") == 3


def test_task_that_is_no_share_in_one_cell_is_in_no_average_of_the_model() -> None:
    found = [
        cell(label, n, a=task("acc", 0.5, True), b=task("score", value, True))
        for label, n, value in (("baseline", 0, 40.0), ("lstsq", 4, 0.9))
    ]
    rows = {row.label: row.values for row in leaderboard.build(found).rows}
    assert rows["lstsq"]["average"].number == pytest.approx(50.0)
    assert rows["lstsq"]["task:b"].number == 0.9


def test_without_any_share_the_average_is_unknown_and_says_so() -> None:
    found = [cell("baseline", 0, text=task("word_perplexity", 12.5, False))]
    found.append(cell("lstsq", 4, text=task("word_perplexity", 25.0, False)))
    assert average(found[0]).number is None
    table = leaderboard.build(found)
    assert all(row.values["average"].number is None for row in table.rows)
    assert any("no task that counts has a share of 1" in note for note in table.notes)
    for render in FORMATS.values():
        assert render(table)


def test_pick_and_compare_take_scores_that_are_no_shares(
    call_here: Any, refused: Any, tmp_path: Path
) -> None:
    for side in ("base", "new"):
        store = Store(tmp_path / side)
        for record in records():
            del record.quality["facts"], record.quality["translation"]
            bits = record.quality["bytes"].metrics["bits_per_byte"].value
            record.quality["text"].metrics["word_perplexity"].value = 20.085537
            worse = 0.4 if side == "new" and record.layers else 0.0
            assert bits is not None
            record.quality["bytes"].metrics["bits_per_byte"].value = bits + worse
            store.write(record.label, record)
            store.write_samples(
                record.label,
                {
                    "text": {"doc_id": [*range(40)], "word_perplexity": [-2.5, -3.5] * 20},
                    "bytes": {
                        "doc_id": [*range(40)],
                        "bits_per_byte": [bits + worse - 0.1, bits + worse + 0.1] * 20,
                    },
                },
            )
    found = call_here("compare", tmp_path / "base", tmp_path / "new", "--json")
    assert found.returncode == 1, found.stderr
    document = json.loads(found.stdout)
    assert document["averages"] == []
    verdicts = {(v["label"], v["what"]): v for v in document["verdicts"]}
    worse = verdicts["lstsq", "bytes"]
    assert (worse["marker"], worse["unit"], worse["base"]) == ("worse", "", 0.95)
    assert worse["new"] == pytest.approx(1.35)
    assert worse["change"]["value"] == pytest.approx(-40)  # hundredths of a bit
    assert verdicts["lstsq", "text"]["base"] == pytest.approx(20.085537)
    assert verdicts["lstsq", "text"]["marker"] == "not significant"
    picked = call_here("pick", tmp_path / "base")
    assert picked.returncode == 0
    assert "no average is known" in picked.stdout
    assert "inf" not in picked.stdout
    refused(
        call_here("pick", tmp_path / "base", "--min-task", "bytes=1"), "metric of bytes is no share of 1"
    )
