"""What a paired test can see, by simulation with fixed seeds and against scipy's distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.compare import power, significance
from tests.bench.test_significance import ERROR, off_by


@pytest.mark.parametrize(
    ("items", "changed", "alpha"),
    [(50, 10, 0.05), (400, 0, 0.05 / 80), (400, 40, 0.05 / 80), (400, 120, 0.05)],
)
def test_power_of_mcnemar_is_as_computed(items: int, changed: int, alpha: float) -> None:
    drop = power.detectable_share(items, changed, alpha)
    assert drop is not None
    differing, trials = max(changed / items, drop), 8000
    shares = [(differing + drop) / 2, (differing - drop) / 2, 1 - differing]
    draws = np.random.default_rng(17).multinomial(items, shares, trials)
    found = np.mean([significance.mcnemar(int(a), int(b)).worse <= alpha for a, b, _ in draws])
    computed = power.mcnemar_power(items, differing, drop, alpha)
    assert abs(off_by(float(found), computed, trials)) < ERROR
    assert 0.8 <= computed < 0.81


def test_smaller_drops_are_found_with_less_power() -> None:
    drop = power.detectable_share(400, 40, 0.05)
    assert drop is not None
    assert power.mcnemar_power(400, 0.1, drop - 0.005, 0.05) < 0.8


def test_too_few_items_detect_nothing() -> None:
    assert power.detectable_share(4, 0, 0.05) is None  # 2⁻⁴ > 0.05
    assert power.detectable_share(5, 0, 0.05) is not None


def test_power_of_the_permutation_test_is_about_as_computed() -> None:
    trials, items, rng = 500, 80, np.random.default_rng(19)
    drop = power.detectable_mean(rng.standard_normal(100_000)[:items], 0.05)
    assert drop is not None
    found = 0
    for _ in range(trials):
        found += significance.sign_flip(rng.standard_normal(items) - drop, flips=1999).worse <= 0.05
    assert found / trials == pytest.approx(0.8, abs=0.07)


def test_more_items_detect_smaller_drops_of_a_mean() -> None:
    differences = np.random.default_rng(0).standard_normal(400)
    few, many = (power.detectable_mean(differences[:n], 0.05) for n in (40, 400))
    assert few is not None
    assert many is not None
    assert many < few / 2.5
    assert power.detectable_mean(np.zeros(50), 0.05) is None


# ---- how many items a drop needs


def simulate_mcnemar(items: int, changed: float, drop: float, alpha: float, trials: int) -> float:
    """The share of samples in which a drop is found, by scipy's binomial distribution."""
    shares = [(changed + drop) / 2, (changed - drop) / 2, 1 - changed]
    losses, gains, _ = np.random.default_rng(41).multinomial(items, shares, trials).T
    return float(np.mean(stats.binom.sf(losses - 1, losses + gains, 0.5) <= alpha))


@pytest.mark.parametrize(
    ("items", "changed", "drop", "alpha"),
    [
        (400, 5, 0.01, 0.05 / 80),
        (400, 40, 0.02, 0.05 / 35),
        (60, 20, 0.05, 0.05),
        (400, 1, 0.01, 0.05 / 10),  # fewer changed than may be lost: all of them losses
        (400, 120, 0.002, 0.05 / 35),  # so many that the closed form is taken
    ],
)
def test_so_many_items_find_a_drop_and_a_tenth_less_do_not(
    items: int, changed: int, drop: float, alpha: float
) -> None:
    needed, trials = power.items_for_share(items, changed, drop, alpha), 40_000
    assert needed > items
    differing = max(changed / items, drop)
    share = simulate_mcnemar(needed, differing, drop, alpha, trials)
    assert abs(off_by(share, 0.8, trials)) < ERROR
    fewer = simulate_mcnemar(9 * needed // 10, differing, drop, alpha, trials)
    assert off_by(fewer, 0.8, trials) < -ERROR


def test_items_are_as_many_as_were_paired_where_those_are_enough() -> None:
    assert power.items_for_share(400, 40, 0.2, 0.05) == 400
    assert power.items_for_mean(np.random.default_rng(0).standard_normal(400), 1.0, 0.05) == 400


def test_closed_form_and_exact_count_meet() -> None:
    """Where one takes over from the other, they differ by a hundredth."""
    drops = np.geomspace(0.0085, 0.0088, 7)
    counts = [power.items_for_share(400, 40, float(drop), 0.05 / 35) for drop in drops]
    assert counts[0] > power.EXACT > counts[-1]
    scaled = [count * drop**2 for count, drop in zip(counts, drops, strict=True)]
    assert max(scaled) / min(scaled) < 1.02


def test_no_number_is_told_of_drops_near_0() -> None:
    differences = np.random.default_rng(0).standard_normal(50)
    for drop in (1e-9, 5e-324):
        assert power.items_for_share(400, 40, drop, 0.05) == power.MOST_ITEMS
        assert power.items_for_mean(differences, drop, 0.05) == power.MOST_ITEMS


@pytest.mark.parametrize("drop", [0.3, 0.05])
def test_items_for_a_mean_give_students_test_its_power(drop: float) -> None:
    differences = np.random.default_rng(43).exponential(1, 30) - 1
    needed, spread = power.items_for_mean(differences, drop, 0.01), math.sqrt(np.mean(differences**2))

    def found(items: int) -> float:
        critical = stats.t.isf(0.01, items - 1)
        return float(stats.nct.sf(critical, items - 1, drop * math.sqrt(items) / spread))

    assert needed > differences.size
    assert found(needed) == pytest.approx(0.8, abs=0.01)
    assert found(9 * needed // 10) < 0.78
