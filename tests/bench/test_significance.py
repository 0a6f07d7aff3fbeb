"""Tests and intervals against independent computations, and by simulation with fixed seeds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from bench.compare import significance

ERROR = 3.5  # standard errors that a simulated share may be off by


def off_by(share: float, expected: float, trials: int) -> float:
    """Distance of a simulated share from what is expected, in its standard errors."""
    return (share - expected) / math.sqrt(expected * (1 - expected) / trials)


# ---- tests against other implementations


@pytest.mark.parametrize(("losses", "gains"), [(0, 0), (1, 0), (0, 3), (8, 2), (40, 12), (250, 310)])
def test_mcnemar_is_the_one_sided_binomial_test(losses: int, gains: int) -> None:
    found = significance.mcnemar(losses, gains)
    if losses + gains:
        worse = stats.binomtest(losses, losses + gains, alternative="greater").pvalue
        better = stats.binomtest(gains, losses + gains, alternative="greater").pvalue
        assert (found.worse, found.better) == pytest.approx((worse, better))
    else:
        assert (found.worse, found.better) == (1, 1)


def test_few_differences_are_enumerated_like_scipys_permutation_test() -> None:
    differences = np.array([-1.5, 0.25, 0.0, -2.0, -0.5, 1.0, -3.0, 0.0])
    found = significance.sign_flip(differences)
    for alternative, p in (("less", found.worse), ("greater", found.better)):
        expected = stats.permutation_test(
            (differences,),
            np.sum,
            permutation_type="samples",
            alternative=alternative,
            n_resamples=np.inf,
        )
        assert p == pytest.approx(expected.pvalue)


def test_many_differences_are_sampled_close_to_the_exact_probability() -> None:
    differences = np.random.default_rng(3).normal(-0.25, 1, 18)
    signs = np.array(list(itertools.product((1, -1), repeat=18)))
    exact = np.mean(signs @ np.abs(differences) <= differences.sum() + 1e-9)
    assert 0.02 < exact < 0.5
    assert significance.sign_flip(differences).worse == pytest.approx(exact, rel=0.2)


def test_permutation_of_zero_one_scores_agrees_with_mcnemar() -> None:
    differences = np.repeat([-1.0, 1.0, 0.0], [24, 10, 100])
    expected = significance.mcnemar(24, 10)
    found = significance.sign_flip(differences)
    assert found.worse == pytest.approx(expected.worse, abs=0.003)
    assert found.better == pytest.approx(expected.better, abs=0.05)


def test_sampled_probability_is_never_zero_and_repeats() -> None:
    differences = np.full(60, -1.0)
    found = significance.sign_flip(differences, flips=999)
    assert found.worse == 1 / 1000
    assert found == significance.sign_flip(differences, flips=999)


def test_nothing_that_differs_is_no_evidence() -> None:
    assert significance.sign_flip(np.zeros(30)) == significance.OneSided(1, 1)


def test_holm_is_as_in_the_worked_example() -> None:
    # 0.01·4, 0.013·3, 0.03·2, 0.8·1, and never below the one before
    assert significance.holm([0.03, 0.01, 0.8, 0.013]) == pytest.approx([0.06, 0.04, 0.8, 0.04])
    assert significance.holm([]) == []
    assert significance.holm([0.6, 0.9]) == [1, 1]


def test_ratio_of_times_is_welchs_test_of_logarithms() -> None:
    base, new = [1.0, 1.1, 0.95, 1.02], [1.3, 1.25, 1.4]
    found = significance.ratio_of_times(base, new, 1.0)
    expected = stats.ttest_ind(np.log(new), np.log(base), equal_var=False, alternative="greater")
    spans = stats.ttest_ind(np.log(new), np.log(base), equal_var=False).confidence_interval(0.95)
    assert found.beyond is not None
    assert found.interval is not None
    assert found.beyond.worse == pytest.approx(expected.pvalue)
    assert found.beyond.better == pytest.approx(1 - expected.pvalue)
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(np.exp(spans)))


def test_one_process_on_a_side_has_a_ratio_and_no_interval() -> None:
    found = significance.ratio_of_times([1.0], [1.5, 1.5, 1.5], 1.0)
    assert found == significance.Ratio(pytest.approx(1.5), None, None)


def test_equal_times_are_no_error() -> None:
    found = significance.ratio_of_times([2.0, 2.0], [3.0, 3.0], 1.05)
    assert found.beyond is not None
    assert found.beyond.worse < 1e-6
    assert found.value == pytest.approx(1.5)


# ---- false alarms


@pytest.mark.parametrize(("items", "changed"), [(50, 0.2), (400, 0.05), (400, 0.3)])
def test_mcnemar_alarms_at_most_as_often_as_alpha(items: int, changed: float) -> None:
    trials = 5000
    half = changed / 2
    draws = np.random.default_rng(11).multinomial(items, [half, half, 1 - changed], trials)
    alarms = [significance.mcnemar(int(a), int(b)).worse <= 0.05 for a, b, _ in draws]
    assert off_by(float(np.mean(alarms)), 0.05, trials) < ERROR
    assert np.mean(alarms) > 0.01  # the test does something


@pytest.mark.parametrize("items", [12, 60])
def test_permutation_alarms_as_often_as_alpha_for_skewed_scores(items: int) -> None:
    trials, rng = 800, np.random.default_rng(5)
    alarms = 0
    for _ in range(trials):
        pair = -rng.exponential(2.0, (2, items))  # log-likelihoods of the same items, exchangeable
        alarms += significance.sign_flip(pair[1] - pair[0], flips=1999).worse <= 0.05
    assert abs(off_by(alarms / trials, 0.05, trials)) < ERROR


def test_a_family_under_holm_alarms_at_most_as_often_as_alpha() -> None:
    """30 scores of 400 items, of which one in ten differs without getting worse on the whole."""
    trials, scores, rng = 1500, 30, np.random.default_rng(7)
    alarms = 0
    for _ in range(trials):
        changes = rng.binomial(400, 0.1, scores)
        losses = rng.binomial(changes, 0.5)
        p = [
            significance.mcnemar(int(x), int(n - x)).worse for x, n in zip(losses, changes, strict=True)
        ]
        alarms += min(significance.holm(p)) <= 0.05
    share = alarms / trials
    assert off_by(share, 0.05, trials) < ERROR
    assert share > 0.01


def test_welch_alarms_about_as_often_as_alpha_with_three_processes() -> None:
    trials, rng = 3000, np.random.default_rng(13)
    alarms = 0
    for _ in range(trials):
        base, new = np.exp(rng.normal(0, 0.03, (2, 3)))
        found = significance.ratio_of_times(base, new, 1.0).beyond
        assert found is not None
        alarms += found.worse <= 0.05
    assert off_by(alarms / trials, 0.05, trials) < ERROR
    assert alarms / trials > 0.02


# ---- intervals


@pytest.mark.parametrize(
    ("items", "losses", "gains"), [(50, 0.1, 0.1), (400, 0.05, 0.1), (400, 0.15, 0.05), (60, 0.03, 0)]
)
def test_interval_of_shares_covers_the_truth(items: int, losses: float, gains: float) -> None:
    trials = 4000
    draws = np.random.default_rng(23).multinomial(items, [losses, gains, 1 - losses - gains], trials)
    spans = [significance.difference_of_shares(int(a), int(b), items) for a, b, _ in draws]
    covered = float(np.mean([span.low <= gains - losses <= span.high for span in spans]))
    assert off_by(covered, 0.95, trials) > -ERROR


@pytest.mark.parametrize(("losses", "gains"), [(0, 0), (20, 0), (0, 20), (7, 5)])
def test_interval_of_shares_holds_the_estimate(losses: int, gains: int) -> None:
    span = significance.difference_of_shares(losses, gains, 20)
    assert -1 <= span.low <= (gains - losses) / 20 <= span.high <= 1


def test_interval_of_a_mean_is_scipys_bca_and_covers_skewed_differences() -> None:
    rng = np.random.default_rng(29)
    differences = rng.exponential(1.0, 80) - 1.2
    span = significance.mean_difference(differences)
    other = stats.bootstrap((differences,), np.mean, n_resamples=9999, method="BCa", rng=rng)
    expected = (other.confidence_interval.low, other.confidence_interval.high)
    assert (span.low, span.high) == pytest.approx(expected, abs=0.03)
    trials, covered = 250, 0
    for _ in range(trials):
        span = significance.mean_difference(rng.exponential(1.0, 80) - 1)
        covered += span.low <= 0 <= span.high
    assert off_by(covered / trials, 0.95, trials) > -ERROR


def test_interval_of_a_mean_leans_with_the_skew() -> None:
    differences = np.random.default_rng(37).lognormal(0, 1.2, 25)
    span = significance.mean_difference(differences)
    other = [
        stats.bootstrap(
            (differences,), np.mean, n_resamples=9999, method=method, rng=np.random.default_rng(1)
        ).confidence_interval.high
        for method in ("BCa", "percentile")
    ]
    assert abs(span.high - other[0]) < 0.3 * abs(other[0] - other[1])


def test_resampled_means_have_the_spread_of_a_mean() -> None:
    scores = np.random.default_rng(31).random((300, 2)).round(1)
    means = significance.resampled_means(scores, resamples=4000)
    assert means.shape == (4000, 2)
    assert means.mean(axis=0) == pytest.approx(scores.mean(axis=0), abs=0.002)
    assert means.std(axis=0) == pytest.approx(scores.std(axis=0) / math.sqrt(300), rel=0.05)
    paired = np.corrcoef(significance.resampled_means(np.stack([scores[:, 0]] * 2, 1)).T)
    assert paired[0, 1] == pytest.approx(1)
