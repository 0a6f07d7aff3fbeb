"""The flip test of ``compare``: changed answers against those of the previous result set."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from rich.console import Console
from scipy import stats

from bench.changes import CHOSEN
from bench.compare import significance
from bench.compare.comparison import Marker
from bench.records import Record
from bench.render import comparison_markdown, comparison_terminal
from tests.bench import cells
from tests.bench.test_compare import FACTS, compared, verdict

ITEMS = 400
FLIPS = f"{FACTS} flips"


def choose(copy: Any, cell: str, flipped: Sequence[int], task: str = FACTS) -> None:
    """Keep chosen answers of a cell: 1 for the items that are flipped, 0 for others."""
    stem = copy.stem(cell)
    samples, metric = copy.store.read_samples(stem), copy.record(cell).quality[task].primary
    samples[task][CHOSEN + metric] = [int(item in flipped) for item in range(len(samples[task][metric]))]
    copy.store.write_samples(stem, samples)


@pytest.fixture
def chosen(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """Equal scores; 40 flipped answers in BASE, 75 in NEW, of which 35 are the same."""
    for copy, flipped in zip(pair, (range(40), range(5, 80)), strict=True):
        choose(copy, "baseline", [])
        choose(copy, "6/lstsq", flipped)
    return pair


def test_equal_scores_can_hide_more_changed_answers(chosen: tuple[Any, Any]) -> None:
    comparison = compared(chosen)
    found = verdict(comparison, "6/lstsq", FLIPS)
    assert (found.kind, found.marker) == ("flips", Marker.WORSE)
    assert (found.losses, found.gains, found.items) == (40, 5, ITEMS)
    assert (found.base, found.new, found.unit) == (10, 18.75, "%")
    expected = stats.binomtest(40, 45, alternative="greater").pvalue
    assert found.p_worse == pytest.approx(expected)
    assert found.change is not None
    assert found.change.value == 8.75
    interval = significance.difference_of_shares(5, 40, ITEMS)
    assert (found.change.low, found.change.high) == (100 * interval.low, 100 * interval.high)
    assert verdict(comparison, "6/lstsq", FACTS).marker is Marker.SAME
    assert comparison.tests == 10  # scores are a family of their own


def test_more_flips_are_told_and_are_no_regression(
    chosen: tuple[Any, Any], call_here: Callable[..., Any]
) -> None:
    result = call_here("compare", chosen[0].folder, chosen[1].folder, "--max-drop", 1, "--strict")
    assert result.returncode == 0
    assert result.stdout.startswith("No regression, but more answers flipped in 1 score.")
    content = json.loads(call_here("compare", chosen[0].folder, chosen[1].folder, "--json").stdout)
    (found,) = [v for v in content["verdicts"] if v["kind"] == "flips"]
    assert (found["what"], found["marker"], found["regression"]) == (FLIPS, "worse", False)


def test_fewer_flips_are_better(chosen: tuple[Any, Any]) -> None:
    found = verdict(compared(chosen[::-1]), "6/lstsq", FLIPS)
    assert found.marker is Marker.BETTER
    assert not compared(chosen[::-1]).more_flips


def test_as_many_other_flips_are_no_change(chosen: tuple[Any, Any]) -> None:
    choose(chosen[1], "6/lstsq", range(40, 80))
    found = verdict(compared(chosen), "6/lstsq", FLIPS)
    assert (found.marker, found.losses, found.gains) == (Marker.SAME, 40, 40)


def test_each_side_is_held_against_its_own_intact_model(chosen: tuple[Any, Any]) -> None:
    """Where the intact model answers as the variant does, nothing is flipped."""
    choose(chosen[1], "baseline", range(5, 80))
    found = verdict(compared(chosen), "6/lstsq", FLIPS)
    assert (found.base, found.new, found.marker) == (10, 0, Marker.BETTER)


def test_flips_are_a_family_of_their_own(chosen: tuple[Any, Any]) -> None:
    """Holm's correction counts the tasks whose flips are known, not all scores."""
    tasks = [name for name in chosen[0].record("6/lstsq").quality if name != FACTS]
    before = verdict(compared(chosen), "6/lstsq", FLIPS).p_worse
    for copy in chosen:
        for task in tasks[:2]:
            choose(copy, "baseline", [], task)
            choose(copy, "6/lstsq", [], task)
    found = verdict(compared(chosen), "6/lstsq", FLIPS)
    assert before is not None
    assert found.p_worse == pytest.approx(3 * before)


def test_items_are_paired_by_their_ids(chosen: tuple[Any, Any]) -> None:
    chosen[1].reverse_items("6/lstsq", FACTS)
    found = verdict(compared(chosen), "6/lstsq", FLIPS)
    assert (found.losses, found.gains) == (40, 5)


# ---- where flips are unknown


def forget(copy: Any, cell: str) -> None:
    stem = copy.stem(cell)
    samples = copy.store.read_samples(stem)
    for columns in samples.values():
        for key in [key for key in columns if key.startswith(CHOSEN)]:
            del columns[key]
    copy.store.write_samples(stem, samples)


def ask_otherwise(record: Record) -> None:
    cells.change_task(record.quality[FACTS], limit=50)


def from_other_weights(record: Record) -> None:
    cells.change_model(record, weights="other")


@pytest.mark.parametrize(
    "lose",
    [
        lambda base, _: forget(base, "6/lstsq"),
        lambda base, _: forget(base, "baseline"),
        lambda _, new: forget(new, "baseline"),
        lambda _, new: new.change("baseline", ask_otherwise),
        lambda _, new: new.change("6/lstsq", ask_otherwise),
        lambda _, new: new.change("baseline", from_other_weights),
    ],
    ids=["of the cell", "of the intact model", "of the other", "other items", "other task", "weights"],
)
def test_flips_that_are_unknown_on_a_side_are_not_tested(
    chosen: tuple[Any, Any], lose: Callable[[Any, Any], None]
) -> None:
    lose(*chosen)
    assert not [v for v in compared(chosen).verdicts if v.kind == "flips"]


# ---- how they are shown


def test_terminal_shows_flips_in_80_columns(chosen: tuple[Any, Any]) -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    comparison_terminal.render(compared(chosen), console)
    shown = file.getvalue().splitlines()
    assert max(map(len, shown)) <= 80
    (row,) = [line for line in shown if line.startswith("↓ 6/lstsq")]
    assert "facts flips" in row
    assert all(text in row for text in ("10.0", "18.8", "+8.8", "<.001"))
    assert "chosen answer is not that of the intact model" in " ".join(" ".join(shown).split())


def test_markdown_shows_flips_and_their_metric(chosen: tuple[Any, Any]) -> None:
    text = comparison_markdown.render(compared(chosen))
    assert text.startswith("### ✅ No regression, but more answers flipped in 1 score.")
    assert "| facts flips acc\\_norm | 10.0 | 18.8 | +8.8 |" in text.replace("acc_norm", "acc\\_norm")


def test_results_without_chosen_answers_say_nothing_of_flips(pair: tuple[Any, Any]) -> None:
    assert "flips" not in comparison_terminal.text(compared(pair))
