"""What a paired test can see: its power, the smallest drop it finds, and the items that a drop needs.

Pure functions on numbers and arrays. A *loss* is an item that got worse, a *gain* one that got better.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from functools import cache

import numpy as np

from bench.compare.significance import Floats

POWER = 0.8
UNLIKELY = 1e-9  # chance of a number of changed items beyond which none is looked at
EXACT = 20_000  # items up to which a number of them is exact; beyond, the closed form is as good
MOST_ITEMS = 10**9  # more are not told apart


@cache
def detectable_share(items: int, changed: int, alpha: float) -> float | None:
    """The smallest drop of a share that exact McNemar finds with 80 % power.

    Args:
        items: how many are paired.
        changed: how many of them differ, losses and gains; a drop larger than that share is made of
            losses alone, and so is any where nothing differs: then it is the least one could hope for.
        alpha: level of the one-sided test.

    Returns:
        A share of the items, or ``None``: not even a loss of all of them would be found.
    """
    if mcnemar_power(items, 1.0, 1.0, alpha) < POWER:
        return None
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        enough = mcnemar_power(items, max(changed / items, middle), middle, alpha) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def mcnemar_power(items: int, changed: float, drop: float, alpha: float) -> float:
    """Probability that exact McNemar, one-sided at ``alpha``, finds a drop.

    Args:
        changed: probability that an item differs.
        drop: probability of a loss minus that of a gain, at most ``changed``.
    """
    from scipy.special import betainc
    from scipy.stats import binom

    if changed <= 0:
        return 0.0
    fewest, most = binom.ppf(UNLIKELY, items, changed), binom.isf(UNLIKELY, items, changed)
    changes = np.arange(fewest, most + 1)
    losses = binom.isf(alpha, changes, 0.5) + 1  # that it takes to reject
    possible = losses <= changes
    changes, losses = changes[possible], losses[possible]
    likely = binom.pmf(changes, items, changed)
    return float(likely @ betainc(losses, changes - losses + 1, (1 + drop / changed) / 2))


def detectable_mean(differences: Floats, alpha: float) -> float | None:
    """The smallest drop of a mean that a one-sided paired test finds with 80 % power.

    (t₁₋α + t₀.₈)·s/√n with n − 1 degrees of freedom, and s the root mean square of the differences:
    Student's test, which the permutation test follows closely. ``None`` where nothing differs.
    """
    items = differences.size
    spread = math.sqrt(float((differences**2).mean()))
    if items < 2 or spread == 0:
        return None
    return _student(items, alpha) * spread


@cache
def items_for_share(items: int, changed: int, drop: float, alpha: float) -> int:
    """How many items it takes for exact McNemar to find a drop of a share with 80 % power.

    The smallest n ≥ ``items`` at which :func:`mcnemar_power` reaches 80 %; where that is far away, the
    sample size of Miettinen 1968 and Connor 1987, (z₁₋α·√p + z₀.₈·√(p − d²))²/d² for a drop d where a
    share p of the items differs. Both assume that further items differ as often as those seen, and
    independently; where fewer than d differ, that all d are losses.

    Args:
        items: how many were paired.
        changed: how many of them differ.
        drop: probability of a loss minus that of a gain, in (0, 1].
        alpha: level of the one-sided test.

    Returns:
        At most ``MOST_ITEMS``.
    """
    from scipy.special import ndtri

    differing = max(changed / items, drop)
    levels = float(ndtri(1 - alpha)), float(ndtri(POWER))
    root = levels[0] * math.sqrt(differing) + levels[1] * math.sqrt(differing - drop**2)
    if (about := (root / drop) * (root / drop)) > EXACT:
        return max(items, math.ceil(min(about, MOST_ITEMS)))
    return _smallest(items, lambda size: mcnemar_power(size, differing, drop, alpha) >= POWER)


def items_for_mean(differences: Floats, drop: float, alpha: float) -> int:
    """How many items it takes for a one-sided paired test to find a drop of a mean with 80 % power.

    The smallest n ≥ that of ``differences`` with (t₁₋α + t₀.₈)·s/√n ≤ ``drop``, as in
    :func:`detectable_mean`. It assumes that the differences of further items spread as those seen do.

    Returns:
        At most ``MOST_ITEMS``, which stands for more, too.
    """
    spread = math.sqrt(float((differences**2).mean()))
    return _smallest(max(2, differences.size), lambda size: _student(size, alpha) * spread <= drop)


def items_for_interval(items: int, drop: float, end: float, limit: float) -> int:
    """How many items narrow the interval of a drop until it ends at a limit.

    n·((end − drop)/(limit − drop))², as widths shrink with √n, if the drop stays what it is.

    Args:
        items: how many were paired.
        drop, end: as measured, and the larger end of its interval; ``drop`` ≤ ``limit`` < ``end``.

    Returns:
        At most ``MOST_ITEMS``.
    """
    ratio = (end - drop) / max(limit - drop, 1e-9)
    return math.ceil(min(items * ratio * ratio, MOST_ITEMS))


def _smallest(least: int, enough: Callable[[int], bool]) -> int:
    """The smallest size from ``least`` on that is enough, where larger ones are, too."""
    most = least
    while most < MOST_ITEMS and not enough(most):
        least, most = most, min(2 * most, MOST_ITEMS)
    return least + bisect_left(range(least, most), True, key=enough)


def _student(items: int, alpha: float) -> float:
    """The smallest drop that Student's test finds with 80 % power, where differences spread by 1."""
    from scipy.special import stdtrit

    quantiles = stdtrit(items - 1, 1 - alpha) + stdtrit(items - 1, POWER)
    return float(quantiles / math.sqrt(items))
