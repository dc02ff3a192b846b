"""What a group of heads gets, and how much more than another: intervals, and tests over images and over seeds.

What is compared are groups of heads: a head alone, or the heads of several seeds of the same settings, which stand for
these settings. A head alone stands for itself. docs/statistics.md has how often tests and intervals are right.

Two heads alone are compared by flips (flips.py). Where a group has several seeds, flips would take these for all there
are, and find differences that other seeds do not have. Here the variance of the difference is that of the seeds' mean
over images, plus that of seeds: the sample variance of the figures within groups, pooled over both, times the sum of
1 / number of seeds. A run alone has no spread of its own, and is taken to have that of the group beside it; zero-shot
has none. p and interval are Student's, with the mean of the quantiles, weighted by the variances (Cochran, Biometrics
1964), as Welch's and Satterthwaite's degrees of freedom are too sure of two or three seeds. They cover other images and
other seeds. What images and seeds do together is counted twice, which errs towards caution.

Ranks have no upper end that tells what the images that were not drawn might do: their means have no interval, nor have
differences of them; nor is there a test of medians over several seeds.

Shape suffixes: I images, H heads, C columns of the table.
"""

from dataclasses import dataclass
from math import isnan

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from clipret.statistics.intervals import Evidence, effective_images, median_interval, proportion_interval

# Sums of the same numbers in another order differ in the last bits.
TIE = 1e-10
# What metrics.json says of the intervals.
INTERVALS = "mid-P over images, in clusters; gain: differences that sign flips over images do not refuse"
# Of Student's tests: the tails beyond are nothing that data are known to have.
_SMALLEST_P = 1e-12


@dataclass(frozen=True)
class Heads:
    """Heads of the same settings.

    members  their places among the heads
    varies   whether another training of these settings would give another head: not of a baseline
    """

    members: tuple[int, ...]
    varies: bool = True


@dataclass(frozen=True)
class Estimate:
    """A figure of each column, (C,): value, its interval (NaN: it has none), the sample standard deviation over seeds
    (None: one head) and, of a difference, the p-value (NaN: there is no test)."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    spread: np.ndarray | None = None
    p: np.ndarray | None = None


def estimate(evidence: Evidence, members: tuple[int, ...], *, level: float) -> Estimate:
    """What a group of heads gets: the mean over them.

    The interval of a head alone covers other images; that of several covers other seeds as well.
    """
    mixture, points = _mean_of(members, evidence), evidence.points[list(members)]
    value, limits = points.mean(0), evidence.limits
    scaled = np.minimum(value / limits, 1)
    sizes, spread = effective_images(evidence, mixture), None
    if len(members) > 1:
        spread = points.std(0, ddof=1)
        parts = [
            (scaled * (1 - scaled) / sizes, evidence.images - 1),
            ((spread / limits) ** 2 / len(members), len(members) - 1),
        ]
        # As many images fewer as make the interval wider by the seeds.
        alone = parts[0][0] * ndtri((1 + level) / 2) ** 2
        sizes = np.divide(sizes * alone, _reach(parts, outside=1 - level) ** 2, out=sizes, where=alone > 0)
    scale = np.where(np.isinf(limits), np.nan, limits)
    low, high = (scale * end for end in proportion_interval(scaled, sizes, level=level))
    if len(members) == 1:
        for place in evidence.medians:
            low[place], high[place] = median_interval(evidence, members[0], column=place, level=level)
    return Estimate(value, low, high, spread)


def intervals_of(estimated: Estimate) -> list[list[float] | None]:
    """[low, high] of each column, None where there is no interval."""
    ends = zip(estimated.low.tolist(), estimated.high.tolist(), strict=True)
    return [None if isnan(low) else [low, high] for low, high in ends]


def contrast(evidence: Evidence, first: Heads, second: Heads, *, level: float) -> Estimate:
    """What the first group gets more than the second, where one of them has several seeds, or both."""
    mixture = _mean_of(first.members, evidence) - _mean_of(second.members, evidence)
    value, shares = mixture @ evidence.points, evidence.shares(mixture)
    value[np.abs(value) < TIE] = 0.0
    images = evidence.variance(mixture) + 2 * usual_change(shares, evidence.limits) ** 2
    repeated = [evidence.points[list(group.members)] for group in (first, second) if len(group.members) > 1]
    freedom = sum(len(points) - 1 for points in repeated)
    seeds = sum(((points - points.mean(0)) ** 2).sum(0) for points in repeated) / freedom
    drawn = sum(1 / len(group.members) for group in (first, second) if group.varies)
    parts = [(images, evidence.images - 1), (seeds * drawn, freedom)]
    reach, p = _reach(parts, outside=1 - level), _p_values(value, parts)
    p[evidence.medians] = np.nan
    return Estimate(value, *within(value - reach, value + reach, evidence.limits), p=p)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values of a family of tests (F,): rejecting those up to alpha, the chance of any wrong rejection is at
    most alpha, whatever the tests have to do with each other (Holm, Scandinavian Journal of Statistics 1979)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def student_quantile(outside: float, freedom: float) -> float:
    """The t with P(|T| > t) = outside, of `freedom` > 0 degrees of freedom."""
    return float(-stdtrit(freedom, outside / 2))


def _mean_of(members: tuple[int, ...], evidence: Evidence) -> np.ndarray:
    mixture = np.zeros(len(evidence.points))
    mixture[list(members)] = 1 / len(members)
    return mixture


def usual_change(differences: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """(C,) how much an image that differs adds to a difference, the root of its mean square over those of (I, C)."""
    differing = (np.abs(differences) > TIE / len(differences)).sum(0)
    whole = np.where(np.isinf(limits), 0.0, limits) / len(differences)
    return np.where(differing, np.sqrt((differences**2).sum(0) / np.maximum(1, differing)), whole)


def within(low: np.ndarray, high: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of a difference's interval within what there is; NaN where there is no interval."""
    none = np.where(np.isinf(limits), np.nan, 0.0)
    return np.maximum(low, -limits) + none, np.minimum(high, limits) + none


Parts = list[tuple[np.ndarray, float]]


def _reach(parts: Parts, *, outside: float) -> np.ndarray:
    """(C,) how far a sum is from what it should be, with that chance of being further.

    parts  of the sum: a variance (C,) and its degrees of freedom
    """
    total = sum(variance for variance, _ in parts)
    weighted = sum(variance * student_quantile(outside, max(1, freedom)) for variance, freedom in parts)
    return np.divide(weighted, np.sqrt(total), out=np.zeros_like(total), where=total > 0)


def _p_values(value: np.ndarray, parts: Parts) -> np.ndarray:
    """(C,) the chance that goes with a reach just as far as the value."""
    p_values = np.ones(len(value))
    for place in np.flatnonzero(value):
        column = [(variance[place : place + 1], freedom) for variance, freedom in parts]

        def beyond(chance: float, column: Parts = column, away: float = abs(value[place])) -> float:
            return _reach(column, outside=chance)[0] - away

        p_values[place] = brentq(beyond, _SMALLEST_P, 1.0) if beyond(_SMALLEST_P) > 0 else _SMALLEST_P
    return p_values
