"""The third verdict of ``compare``: a drop over --max-drop that is neither found nor excluded."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bench.compare import significance
from bench.compare.comparison import Change, Comparison, Marker, Options, Verdict
from bench.compare.scores import Score, judge
from bench.render import comparison_markdown, comparison_terminal
from tests.bench.test_compare import FACTS, RETRIEVAL, compared, verdict


def judge_alone(losses: int, gains: int, items: int, max_drop: float, family: int = 1) -> Verdict:
    """The verdict on a 0/1 score, with ``family − 1`` scores beside it of which no item changed."""
    differences = np.repeat([-1.0, 1.0, 0.0], [losses, gains, items - losses - gains])
    interval = significance.difference_of_shares(losses, gains, items)
    change = Change(100 * differences.mean(), 100 * interval.low, 100 * interval.high)
    key = ("tiny", 6, "lstsq")
    draft = Verdict(key, "score", "task", Marker.SAME, change=change, losses=losses, gains=gains)
    score = Score(draft, differences, True, significance.mcnemar(losses, gains))
    others = [Score(draft, np.zeros(items), True, significance.mcnemar(0, 0))] * (family - 1)
    return judge([score, *others], Options(max_drop=max_drop))[0]


# ---- what is inconclusive


def test_a_drop_that_is_neither_found_nor_excluded_is_inconclusive(pair: tuple[Any, Any]) -> None:
    pair[1].flip("6/lstsq", FACTS, losses=6, gains=2)
    comparison = compared(pair, max_drop=2)
    found = verdict(comparison, "6/lstsq", FACTS)
    assert (found.marker, found.regression, found.inconclusive) == (Marker.INCONCLUSIVE, False, True)
    assert found.change is not None
    assert found.change.low is not None
    assert found.change.low < -2 < found.change.value
    assert found.detectable is not None
    assert found.detectable > 2
    assert found.items_needed is not None
    assert found.items_needed > 400
    assert comparison.inconclusive == [found]


def test_identical_scores_are_not_inconclusive_however_few(pair: tuple[Any, Any]) -> None:
    """An interval of the difference has a width where no item changed, too."""
    found = compared(pair, max_drop=0.5)
    assert verdict(found, "6/lstsq", FACTS).change == Change(
        0, pytest.approx(-0.69, abs=0.01), pytest.approx(0.69, abs=0.01)
    )
    assert {v.marker for v in found.verdicts} == {Marker.SAME}
    assert found.passes


def test_without_a_margin_nothing_is_inconclusive(pair: tuple[Any, Any]) -> None:
    pair[1].flip("6/lstsq", FACTS, losses=6, gains=2)
    found = verdict(compared(pair), "6/lstsq", FACTS)
    assert (found.marker, found.inconclusive, found.items_needed) == (Marker.SAME, False, None)


def test_an_interval_within_the_margin_is_conclusive() -> None:
    assert judge_alone(6, 2, 400, max_drop=2, family=10).marker is Marker.INCONCLUSIVE
    assert judge_alone(6, 2, 400, max_drop=2.6, family=10).marker is Marker.SAME


def test_an_interval_past_the_margin_is_conclusive_where_the_test_would_have_seen_it() -> None:
    found = judge_alone(24, 16, 400, max_drop=4.5)
    assert found.change is not None
    assert found.change.low is not None
    assert found.change.low < -4.5
    assert found.detectable is not None
    assert found.detectable < 4.5
    assert (found.marker, found.inconclusive) == (Marker.SAME, False)


def test_more_scores_make_the_test_weaker_and_the_verdict_inconclusive() -> None:
    """Holm's first step of 80 scores sees less than that of one, and needs more items."""
    few, some, many = (judge_alone(24, 16, 400, max_drop=4.5, family=n) for n in (1, 10, 80))
    assert few.marker is Marker.SAME
    assert (some.marker, many.marker) == (Marker.INCONCLUSIVE, Marker.INCONCLUSIVE)
    assert some.items_needed is not None
    assert many.items_needed is not None
    assert 400 < some.items_needed < many.items_needed


def test_what_is_found_is_a_regression_or_within_the_margin(pair: tuple[Any, Any]) -> None:
    pair[1].flip("6/lstsq", FACTS, losses=40)
    pair[1].flip("6/lstsq", RETRIEVAL, gains=40)
    found = compared(pair, max_drop=2)
    assert verdict(found, "6/lstsq", FACTS).regression
    assert not found.inconclusive


def test_a_significant_drop_within_the_margin_is_inconclusive_where_more_is_not_excluded() -> None:
    """Else a gate would stop a weak sign of a drop, and let a strong one pass."""
    found = judge_alone(26, 6, 400, max_drop=6)
    assert (found.marker, found.regression, found.inconclusive) == (Marker.WORSE, False, True)
    assert (found.reason, *found.notes) == ("within --max-drop", "its interval reaches past --max-drop")
    assert found.items_needed is not None
    scale = found.items_needed / 400
    more = judge_alone(round(26 * scale), round(6 * scale), found.items_needed, max_drop=6)
    assert more.change is not None
    assert more.change.low == pytest.approx(-6, abs=0.15)
    sure = judge_alone(26, 6, 400, max_drop=8)
    assert (sure.marker, sure.inconclusive, sure.notes) == (Marker.WORSE, False, ())


def test_with_the_items_that_it_needs_a_score_is_decided() -> None:
    """Samples of so many items find a drop of the margin, and exclude it where there is none."""
    pilot = judge_alone(14, 8, 400, max_drop=2, family=10)
    assert pilot.items_needed is not None
    # a few more, as the share of items that change differs from sample to sample
    items, changed, rng = int(1.2 * pilot.items_needed), 22 / 400, np.random.default_rng(3)

    def judge_samples(drop: float) -> list[Verdict]:
        shares = [(changed + drop) / 2, (changed - drop) / 2, 1 - changed]
        draws = rng.multinomial(items, shares, 60)
        return [judge_alone(a, b, a + b + c, max_drop=2, family=10) for a, b, c in draws]

    assert np.mean([v.marker is Marker.WORSE for v in judge_samples(0.02)]) > 0.75
    assert not any(v.regression or v.inconclusive for v in judge_samples(0.0))


def test_perplexities_are_inconclusive_by_their_log_likelihoods(pair: tuple[Any, Any]) -> None:
    """A margin of 5 points is 0.05 nats of an item."""
    noise = np.random.default_rng(1).normal(0, 0.4, 400)
    for copy, shift in zip(pair, (0.0, noise), strict=True):
        copy.set_perplexity("6/lstsq", RETRIEVAL, shift)
    found = verdict(compared(pair, max_drop=2), "6/lstsq", RETRIEVAL)
    assert (found.test, found.marker) == ("sign-flip permutation", Marker.INCONCLUSIVE)
    assert found.items_needed is not None
    # (z + z)²·s²/d², with the level of one of ten
    assert found.items_needed == pytest.approx((2.576 + 0.842) ** 2 * 0.4**2 / 0.02**2, rel=0.2)
    assert verdict(compared(pair, max_drop=20), "6/lstsq", RETRIEVAL).marker is Marker.SAME


# ---- the gate


def test_strict_alone_makes_the_exit_code_1(
    pair: tuple[Any, Any], call_here: Callable[..., Any]
) -> None:
    pair[1].flip("6/lstsq", FACTS, losses=6, gains=2)
    arguments = ["compare", pair[0].folder, pair[1].folder, "--max-drop"]
    assert call_here(*arguments, 2).returncode == 0
    assert call_here(*arguments, 2, "--strict").returncode == 1
    assert call_here(*arguments, 4, "--strict").returncode == 0
    pair[1].flip("6/lstsq", FACTS, losses=40)
    assert call_here(*arguments, 2, "--strict").returncode == 1


def test_strict_without_a_margin_is_refused(
    pair: tuple[Any, Any], call_here: Callable[..., Any], refused: Callable[..., None]
) -> None:
    result = call_here("compare", pair[0].folder, pair[1].folder, "--strict")
    refused(result, "--strict: say with --max-drop how many points a score may drop")


# ---- how it is shown


@pytest.fixture
def open_question(pair: tuple[Any, Any]) -> Comparison:
    pair[1].flip("6/lstsq", FACTS, losses=6, gains=2)
    return compared(pair, max_drop=2)


def test_terminal_says_what_is_needed_in_80_columns(open_question: Comparison) -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    comparison_terminal.render(open_question, console)
    shown = file.getvalue().splitlines()
    needed = open_question.inconclusive[0].items_needed
    assert max(map(len, shown)) <= 80
    assert shown[0] == "No regression, but 1 score inconclusive."
    (heads,) = [line for line in shown if "detects" in line.split()]
    (row,) = [line for line in shown if line.startswith("~ 6/lstsq")]
    assert heads.split()[-1] == "needs"
    assert row.split()[-1] == f"{needed:,}"
    assert f"largest {needed:,}." in " ".join(" ".join(shown).split())


def test_markdown_warns_and_a_strict_gate_fails(pair: tuple[Any, Any]) -> None:
    pair[1].flip("6/lstsq", FACTS, losses=6, gains=2)
    lenient, strict = (compared(pair, max_drop=2, strict=flag) for flag in (False, True))
    text = comparison_markdown.render(lenient)
    assert text.startswith("### ⚠️ No regression, but 1 score inconclusive.")
    (row,) = [line for line in text.splitlines() if line.startswith("| \\~")]
    assert row.endswith(f" {lenient.inconclusive[0].items_needed:,} |")
    assert comparison_markdown.render(strict).startswith(
        "### ❌ No regression, but 1 score inconclusive, which --strict does not let pass."
    )


def test_column_of_needs_is_there_only_where_something_is_open(pair: tuple[Any, Any]) -> None:
    for text in (comparison_terminal.text(compared(pair)), comparison_markdown.render(compared(pair))):
        (heads,) = [line for line in text.splitlines() if "95 % interval" in line and "detects" in line]
        assert "needs" not in heads


def test_json_says_what_is_inconclusive(
    pair: tuple[Any, Any], open_question: Comparison, call_here: Callable[..., Any]
) -> None:
    result = call_here("compare", pair[0].folder, pair[1].folder, "--max-drop", 2, "--strict", "--json")
    content = json.loads(result.stdout)
    assert (content["regression"], content["inconclusive"], content["passes"]) == (False, True, False)
    assert content["options"]["strict"] is True
    (found,) = [v for v in content["verdicts"] if v["inconclusive"]]
    assert (found["what"], found["marker"]) == (FACTS, "inconclusive")
    assert found["items_needed"] == open_question.inconclusive[0].items_needed
