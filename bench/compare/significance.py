"""Statistics of paired comparisons: tests and intervals.

Pure functions on numbers and arrays. A *loss* is an item that got worse, a *gain* one that got better;
differences are new − base, oriented so that positive is better.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
ENUMERATED = 14  # differences up to which all 2^k sign patterns are tried
FLIPS = 19_999  # random sign patterns at most, where there are more differences
ENOUGH = 100  # patterns as extreme as the data after which no more are drawn
BATCH = 4_000_000  # signs drawn at a time
RESAMPLES = 2000
SEED = 0


@dataclass(frozen=True)
class OneSided:
    """Probabilities, without any change, of data at least as bad, and at least as good."""

    worse: float
    better: float


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


def mcnemar(losses: int, gains: int) -> OneSided:
    """Exact test for 0/1 scores: of the items that changed, half should be losses.

    McNemar 1947 with the binomial distribution, as in Fagerland, Lydersen and Laake 2013.
    """
    from scipy.special import bdtrc

    changed = losses + gains
    if changed == 0:
        return OneSided(1.0, 1.0)
    tail = [1.0 if k == 0 else float(bdtrc(k - 1, changed, 0.5)) for k in (losses, gains)]
    return OneSided(*tail)


def sign_flip(differences: Floats, flips: int = FLIPS) -> OneSided:
    """Permutation test of a mean of paired differences: without a change, signs are arbitrary.

    All sign patterns for few differences that are not 0; else random ones, with the +1 rule of Phipson
    and Smyth 2010, or as Besag and Clifford 1991 as soon as ``ENOUGH`` are as extreme as the data. Their
    seed is the data: the same result every time, yet no one draw of patterns for all data.

    Args:
        differences: one per item.
        flips: random patterns at most; the smallest p is 1/(flips + 1).
    """
    moved = differences[differences != 0]
    if not moved.size:
        return OneSided(1.0, 1.0)
    slack = 1e-9 * np.abs(moved).sum()  # sums of the same numbers in another order are equal
    total = float(moved.sum())
    if moved.size <= ENUMERATED:
        bits = np.arange(2**moved.size)[:, None] >> np.arange(moved.size) & 1
        sums = (1 - 2 * bits) @ moved
        return OneSided(float(np.mean(sums <= total + slack)), float(np.mean(sums >= total - slack)))
    extreme = _Sequential(flips), _Sequential(flips)
    rng = np.random.default_rng(zlib.crc32(moved.tobytes()))
    while not all(side.done for side in extreme):
        patterns = min(2000, max(1, BATCH // moved.size))
        signs = 2.0 * rng.integers(0, 2, (patterns, moved.size), dtype=np.int8) - 1
        sums = signs @ moved
        extreme[0].add(sums <= total + slack)
        extreme[1].add(sums >= total - slack)
    return OneSided(extreme[0].probability, extreme[1].probability)


class _Sequential:
    """Share of random patterns that are as extreme as the data, drawn until it is known well enough."""

    def __init__(self, flips: int) -> None:
        self.flips, self.drawn, self.hits, self.done = flips, 0, 0, False

    def add(self, extreme: NDArray[np.bool_]) -> None:
        if self.done:
            return
        extreme = extreme[: self.flips - self.drawn]
        reached = np.flatnonzero(extreme)[ENOUGH - self.hits - 1 : ENOUGH - self.hits]
        if reached.size:
            self.drawn += int(reached[0]) + 1
            self.hits, self.done = ENOUGH, True
        else:
            self.drawn += extreme.size
            self.hits += int(extreme.sum())
            self.done = self.drawn >= self.flips

    @property
    def probability(self) -> float:
        if self.hits == ENOUGH:
            return self.hits / self.drawn
        return (self.hits + 1) / (self.drawn + 1)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Holm's 1979 adjusted probabilities, in the same order, to be compared with α."""
    order = sorted(range(len(probabilities)), key=lambda index: probabilities[index])
    adjusted, highest = [0.0] * len(order), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * probabilities[index]))
        adjusted[index] = highest
    return adjusted


# ---- intervals


def difference_of_shares(losses: int, gains: int, items: int) -> Interval:
    """Interval of (gains − losses)/items for paired 0/1 scores.

    Bonett and Price 2012: Wald with one item added to either kind of change, which is what Fagerland,
    Lydersen and Laake 2014 recommend among the closed forms.
    """
    size = items + 2
    down, up = (losses + 1) / size, (gains + 1) / size
    middle = up - down
    half = _normal(0.5 + CONFIDENCE / 2) * math.sqrt((up + down - middle**2) / size)
    return Interval(max(-1.0, middle - half), min(1.0, middle + half))


def mean_difference(differences: Floats, seed: int = SEED, sizes: Sequence[int] = ()) -> Interval:
    """Interval of the mean of paired differences: bootstrap over items, BCa (Efron 1987).

    Args:
        sizes: see :func:`resampled_means`.
    """
    from scipy.special import ndtr, ndtri

    mean, centred = differences.mean(), differences - differences.mean()
    spread = float((centred**2).sum())
    if spread == 0:
        return Interval(float(mean), float(mean))
    means = resampled_means(differences[:, None], seed=seed, sizes=sizes)[:, 0]
    below = float(np.mean(means < mean) + np.mean(means == mean) / 2)
    below = min(max(below, 1 / means.size), 1 - 1 / means.size)
    bias, skew = ndtri(below), float((centred**3).sum()) / (6 * spread**1.5)
    z = bias + np.array([-1, 1]) * _normal(0.5 + CONFIDENCE / 2)
    low, high = np.quantile(means, ndtr(bias + z / (1 - skew * z)))
    return Interval(float(low), float(high))


def resampled_means(
    scores: Floats,
    resamples: int = RESAMPLES,
    seed: int | Sequence[int] = SEED,
    sizes: Sequence[int] = (),
) -> Floats:
    """Means of bootstrap samples of items.

    Items with equal scores are drawn as one multinomial count, which is the same distribution.

    Args:
        scores: (items, columns); the columns of an item are drawn together.
        sizes: of strata, one after the other, of each of which as many items are drawn as it has.

    Returns:
        (resamples, columns)
    """
    rng, total = np.random.default_rng(seed), np.zeros((resamples, scores.shape[1]))
    for stratum in np.split(scores, np.cumsum(sizes)[:-1]) if sizes else [scores]:
        rows, counts = np.unique(stratum, axis=0, return_counts=True)
        total += rng.multinomial(len(stratum), counts / len(stratum), resamples) @ rows
    return total / len(scores)


def percentiles(values: Floats, confidence: float = CONFIDENCE) -> Interval:
    """The middle ``confidence`` of resampled values."""
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(low), float(high))


# ---- times


@dataclass(frozen=True)
class Ratio:
    """New over base with its interval, and one-sided probabilities for a change beyond a tolerance."""

    value: float
    interval: Interval | None
    beyond: OneSided | None


def ratio_of_times(base: Sequence[float], new: Sequence[float], tolerance: float) -> Ratio:
    """Geometric mean of new over that of base, one value per engine process.

    Welch's t on logarithms with Satterthwaite's degrees of freedom; with a single process on a side
    there is no spread to judge by, and neither interval nor probability.

    Args:
        base, new: seconds, positive.
        tolerance: ≥ 1; slower by less than this factor, or faster by less, is no change.
    """
    from scipy.special import stdtr, stdtrit

    old, fresh = np.log(base), np.log(new)
    change = float(fresh.mean() - old.mean())
    if min(old.size, fresh.size) < 2:
        return Ratio(math.exp(change), None, None)
    parts = [float(side.var(ddof=1)) / side.size for side in (old, fresh)]
    error = math.sqrt(sum(parts)) or 1e-12  # equal times to the last digit
    freedom = float(old.size + fresh.size - 2)
    if any(parts):
        shares = parts[0] ** 2 / (old.size - 1) + parts[1] ** 2 / (fresh.size - 1)
        freedom = sum(parts) ** 2 / shares
    half = float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error
    slower = 1 - float(stdtr(freedom, (change - math.log(tolerance)) / error))
    faster = float(stdtr(freedom, (change + math.log(tolerance)) / error))
    interval = Interval(math.exp(change - half), math.exp(change + half))
    return Ratio(math.exp(change), interval, OneSided(slower, faster))


def _normal(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))
