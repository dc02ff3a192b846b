"""Is one head better than another, or were its images kind to it: paired tests over images, and over seeds.

What is compared are groups of heads: a head alone, or the heads of several seeds of the same settings, which stand for
these settings. A head alone stands for itself.

Two heads alone. The p-value is of a sign-flip permutation test over images: where neither is better, exchanging the two
heads' results on any image is as likely as not. Of a mean metric the statistic is the sum of the images' differences
(all queries of an image together), of the median rank the difference of the medians after the exchange; p = (1 + flips
whose statistic is as far from 0) / (1 + flips). The interval of the difference is the percentile bootstrap's
(Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005; Smucker, Allan and Carterette, CIKM 2007).

Groups with several seeds. Flips would take these seeds for all there are, and find differences that other seeds do
not have. Here the variance of the difference is that of the seeds' mean over draws of images, plus, of each group with
several seeds, the sample variance of its seeds' figures divided by their number; p and interval are Student's, with
Welch's and Satterthwaite's degrees of freedom (Satterthwaite, Biometrics Bulletin 1946), as a bootstrap of two or three
seeds is too sure of itself. What they cover is other images and other seeds. What images and seeds do together is
counted twice, which errs towards caution.

Shape suffixes: I images, H heads, C columns of the table, R draws, B flips at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from clipret.intervals import MEDIAN, FoldTable, percentiles, weighted_medians

_HELD_SIGNS = 1 << 22
# Sums of the same numbers in another order differ in the last bits; such flips tie.
_TIE = 1e-10


@dataclass(frozen=True)
class Evidence:
    """What is known of some heads, by the columns of a table.

    points   (H, C) what each head got
    draws    (R, H, C) what it got on drawn images, the same images for all heads
    images   number of images that ask something
    """

    points: np.ndarray
    draws: np.ndarray
    images: int


@dataclass(frozen=True)
class Estimate:
    """A figure of each column, (C,): value, its interval, the sample standard deviation over seeds (None: one head)
    and, of a difference, the p-value (None: not tested yet)."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    spread: np.ndarray | None = None
    p: np.ndarray | None = None


def pick(values: np.ndarray, names: tuple[str, ...], *, columns: tuple, k: tuple[int, ...]) -> np.ndarray:
    """(..., C) the columns, (direction's place, metric) each, of metrics (..., 2, M).

    A column whose place is None is rsum; it adds up R@K of these K in both directions.
    """
    cuts = [names.index(f"R@{cut}") for cut in k] if any(way is None for way, _ in columns) else []
    chosen = [
        values[..., cuts].sum((-1, -2)) if way is None else values[..., way, names.index(name)] for way, name in columns
    ]
    return np.stack(chosen, axis=-1)


def estimate(evidence: Evidence, members: tuple[int, ...], *, level: float) -> Estimate:
    """What a group of heads gets: the mean over them.

    The interval of a head alone is the bootstrap's over images; that of several covers other seeds as well.
    """
    return _estimate(evidence, [(members, 1)], level=level)


def contrast(evidence: Evidence, first: tuple[int, ...], second: tuple[int, ...], *, level: float) -> Estimate:
    """What the first group gets more than the second. Of two heads alone p is None: flip_p_values has it."""
    return _estimate(evidence, [(first, 1), (second, -1)], level=level)


def flip_p_values(
    tables: list[FoldTable],
    pairs: list[tuple[int, int]],
    *,
    columns: tuple,
    k: tuple[int, ...],
    flips: int,
    seed: int,
    on_block: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """(pairs, C) two-sided p-values of the difference of two heads, by flips of the images' signs.

    pairs     places of two heads in the tables
    columns   (direction's place, metric) of each; the place is None for rsum
    k         what rsum adds up
    on_block  called with the number of flips that are done
    """
    shares = np.concatenate([_shares(table, columns=columns, k=k, folds=len(tables)) for table in tables])
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    medians = [(place, way) for place, (way, name) in enumerate(columns) if name == MEDIAN]

    def statistics(signs: np.ndarray) -> np.ndarray:
        summed = (signs @ shares.reshape(len(shares), -1)).reshape(len(signs), *shares.shape[1:])
        found = summed[:, first] - summed[:, second]
        for place, way in medians:
            for number, pair in enumerate(pairs):
                found[:, number, place] = _median_difference(tables, signs, pair=pair, way=way)
        return np.abs(found)

    observed = statistics(np.ones((1, len(shares))))[0]
    beyond, done = np.zeros(observed.shape), 0
    for signs in _signs(len(shares), flips, seed=seed, width=observed.size):
        beyond += (statistics(signs) >= observed - _TIE).sum(0)
        done += len(signs)
        on_block(done)
    return (1 + beyond) / (1 + flips)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p-values of a family of tests (F,): rejecting those up to alpha, the chance of any wrong rejection is at
    most alpha, whatever the tests have to do with each other (Holm, Scandinavian Journal of Statistics 1979)."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def student_p(statistic: float, freedom: float) -> float:
    """Two-sided p-value of Student's t: P(|T| >= |statistic|) with `freedom` > 0 degrees of freedom."""
    return float(2 * stdtr(freedom, -abs(statistic)))


def student_quantile(level: float, freedom: float) -> float:
    """The t with P(|T| <= t) = level."""
    return float(stdtrit(freedom, (1 + level) / 2))


def _estimate(evidence: Evidence, sides: list[tuple[tuple[int, ...], int]], *, level: float) -> Estimate:
    """Of a signed sum of groups' means: (members, sign) of each."""
    value = sum(sign * evidence.points[list(members)].mean(0) for members, sign in sides)
    draws = sum(sign * evidence.draws[:, list(members)].mean(1) for members, sign in sides)
    repeated = [evidence.points[list(members)] for members, _ in sides if len(members) > 1]
    if not repeated:
        low, high = percentiles(draws, level=level)
        return Estimate(value, low, high)
    parts = [(np.nanvar(draws, axis=0, ddof=1), evidence.images - 1)]
    parts += [(points.var(0, ddof=1) / len(points), len(points) - 1) for points in repeated]
    error = np.sqrt(sum(variance for variance, _ in parts))
    reach, p = np.zeros_like(value), np.ones_like(value)
    for place in range(len(value)):
        if error[place] > 0:
            weights = sum(variance[place] ** 2 / max(freedom, 1) for variance, freedom in parts)
            freedom = error[place] ** 4 / weights
            reach[place] = student_quantile(level, freedom) * error[place]
            p[place] = student_p(value[place] / error[place], freedom)
        elif value[place]:
            # The same difference on all draws, as of medians of small ranks: surer than the draws' number is nothing.
            p[place] = 1 / (1 + len(draws))
    spread = repeated[0].std(0, ddof=1) if len(sides) == 1 else None
    return Estimate(value, value - reach, value + reach, spread, p if len(sides) == 2 else None)


def _shares(table: FoldTable, *, columns: tuple, k: tuple[int, ...], folds: int) -> np.ndarray:
    """(I, H, C) what each image adds to the mean; nothing useful for medians."""
    asked = table.counts.sum(0)
    return pick(table.sums / (asked[:, None] * folds), table.names, columns=columns, k=k)


def _median_difference(tables: list[FoldTable], signs: np.ndarray, *, pair: tuple[int, int], way: int) -> np.ndarray:
    """(B,) difference of the medians, the mean over folds, where images of negative sign have changed heads."""
    total, start = np.zeros(len(signs)), 0
    for table in tables:
        kept = (signs[:, start : start + table.images] > 0).astype(np.float64)
        start += table.images
        values = np.concatenate([table.firsts[way][:, head] for head in pair])
        owners = np.concatenate([table.owners[way], table.owners[way] + table.images])
        sides = (np.hstack([kept, 1 - kept]), np.hstack([1 - kept, kept]))
        ours, theirs = (weighted_medians(weights, values, owners=owners) for weights in sides)
        total += ours - theirs
    return total / len(tables)


def _signs(images: int, flips: int, *, seed: int, width: int = 0) -> Iterator[np.ndarray]:
    """(B, I) of -1 and 1 at a time, the same however many that is: so few that (B, width) is no more memory."""
    generator, words = np.random.default_rng((seed, images)), -(-images // 64)
    block = max(1, _HELD_SIGNS // max(images, width))
    for start in range(0, flips, block):
        rows = min(block, flips - start)
        bits = generator.integers(0, 2**64, size=(rows, words), dtype=np.uint64).view(np.uint8)
        yield np.unpackbits(bits, axis=1, count=images) * 2.0 - 1.0
