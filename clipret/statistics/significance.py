"""Results of groups of heads and their differences: intervals and tests over images and over seeds.

A group is a single head, or the heads of several seeds with the same settings, which stand for these settings.
docs/statistics.md has the measured coverage and error rates.

Two single heads are compared by sign flips (flips.py). With several seeds, flips would treat the given seeds as fixed
and find differences that other seeds do not have. Here the variance of the difference has two parts: over images, that
of the mean over seeds; over seeds, the sample variance within groups, pooled over both, times the sum of
1 / number of seeds. A single run has no spread of its own and gets that of the other group; zero-shot has none. p-value
and interval are Student's, with the mean of the quantiles weighted by the variances (Cochran, Biometrics 1964), as
Welch-Satterthwaite degrees of freedom are too optimistic with two or three seeds. They cover other images and other
seeds. The interaction of images and seeds is counted twice, which is conservative.

Ranks have no upper bound, so a sample does not tell what unseen images could add: means of ranks and their differences
have no interval. There is no test of medians over several seeds.

Shape suffixes: I images, H heads, C columns of the table.
"""

from dataclasses import dataclass
from math import isnan

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from clipret.statistics.intervals import Evidence, effective_images, median_interval, proportion_interval

# Tolerance for sums of the same numbers in another order.
TIE = 1e-10
# The method of the intervals, as stored in metrics.json.
INTERVALS = "mid-P, clustered by image; gain: differences that a sign-flip test over images does not reject"
# The smallest p of a Student test: no data are known to follow the distribution further into its tails.
_SMALLEST_P = 1e-12


@dataclass(frozen=True)
class Heads:
    """A group of heads with the same settings.

    members  their indices among the heads
    varies   whether another seed would give another head; False for a baseline
    """

    members: tuple[int, ...]
    varies: bool = True


@dataclass(frozen=True)
class Estimate:
    """One estimate per column, (C,): value, interval (NaN: none), sample standard deviation over seeds (None: one head)
    and, for a difference, the p-value (NaN: no test)."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    spread: np.ndarray | None = None
    p: np.ndarray | None = None


def estimate(evidence: Evidence, members: tuple[int, ...], *, level: float) -> Estimate:
    """The mean result of a group of heads.

    The interval of a single head covers other images; that of several heads covers other seeds too.
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
        # Reduce the effective sample size so that the interval widens by the variance over seeds.
        alone = parts[0][0] * ndtri((1 + level) / 2) ** 2
        sizes = np.divide(sizes * alone, _reach(parts, outside=1 - level) ** 2, out=sizes, where=alone > 0)
    scale = np.where(np.isinf(limits), np.nan, limits)
    low, high = (scale * end for end in proportion_interval(scaled, sizes, level=level))
    if len(members) == 1:
        for place in evidence.medians:
            low[place], high[place] = median_interval(evidence, members[0], column=place, level=level)
    return Estimate(value, low, high, spread)


def intervals_of(estimated: Estimate) -> list[list[float] | None]:
    """[low, high] of each column; None if there is no interval."""
    ends = zip(estimated.low.tolist(), estimated.high.tolist(), strict=True)
    return [None if isnan(low) else [low, high] for low, high in ends]


def contrast(evidence: Evidence, first: Heads, second: Heads, *, level: float) -> Estimate:
    """The difference of two groups, first less second. At least one of them has several seeds."""
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


def paired(evidence: Evidence, first: int, second: int, *, level: float) -> Estimate:
    """The difference of two single heads, first less second, with Student's interval over images.

    For many small groups of queries, where flip_tests take too long; without a p-value.
    """
    mixture = np.zeros(len(evidence.points))
    mixture[first], mixture[second] = 1, -1
    value, shares = mixture @ evidence.points, evidence.shares(mixture)
    images = evidence.variance(mixture) + 2 * usual_change(shares, evidence.limits) ** 2
    reach = _reach([(images, evidence.images - 1)], outside=1 - level)
    return Estimate(value, *within(value - reach, value + reach, evidence.limits))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm-adjusted p-values of a family of tests (F,). Rejecting those up to alpha keeps the family-wise error rate at
    most alpha under any dependence (Holm, Scandinavian Journal of Statistics 1979)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def student_quantile(outside: float, freedom: float) -> float:
    """The t with P(|T| > t) = outside, for `freedom` > 0 degrees of freedom."""
    return float(-stdtrit(freedom, outside / 2))


def _mean_of(members: tuple[int, ...], evidence: Evidence) -> np.ndarray:
    mixture = np.zeros(len(evidence.points))
    mixture[list(members)] = 1 / len(members)
    return mixture


def usual_change(differences: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """(C,) the root mean square of the differences (I, C) that are not 0; the largest possible one if all are 0."""
    differing = (np.abs(differences) > TIE / len(differences)).sum(0)
    whole = np.where(np.isinf(limits), 0.0, limits) / len(differences)
    return np.where(differing, np.sqrt((differences**2).sum(0) / np.maximum(1, differing)), whole)


def within(low: np.ndarray, high: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clip the ends of a difference's interval to possible values; NaN for unbounded metrics."""
    none = np.where(np.isinf(limits), np.nan, 0.0)
    return np.maximum(low, -limits) + none, np.minimum(high, limits) + none


Parts = list[tuple[np.ndarray, float]]


def _reach(parts: Parts, *, outside: float) -> np.ndarray:
    """(C,) half the width of the interval of a sum of independent parts, with probability `outside` beyond it.

    parts  variance (C,) and degrees of freedom of each part
    """
    total = sum(variance for variance, _ in parts)
    weighted = sum(variance * student_quantile(outside, max(1, freedom)) for variance, freedom in parts)
    return np.divide(weighted, np.sqrt(total), out=np.zeros_like(total), where=total > 0)


def _p_values(value: np.ndarray, parts: Parts) -> np.ndarray:
    """(C,) the two-sided p-value: the `outside` at which the reach equals the value."""
    p_values = np.ones(len(value))
    for place in np.flatnonzero(value):
        column = [(variance[place : place + 1], freedom) for variance, freedom in parts]

        def beyond(chance: float, column: Parts = column, away: float = abs(value[place])) -> float:
            return _reach(column, outside=chance)[0] - away

        p_values[place] = brentq(beyond, _SMALLEST_P, 1.0) if beyond(_SMALLEST_P) > 0 else _SMALLEST_P
    return p_values
