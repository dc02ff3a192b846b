"""Paired comparison of two heads: a sign-flip permutation test over images, and the confidence interval from it.

Under the null hypothesis that neither head is better, the two heads' results on an image are exchangeable (Smucker,
Allan and Carterette, CIKM 2007). For a mean metric the statistic is the sum of the images' differences, with all
queries of an image taken together; for the median rank it is the difference of the medians after the exchange.
p = (1 + flips whose statistic is at least as extreme) / (1 + flips).

The interval holds the differences that the same test, with the same flips, does not reject (Good, Permutation,
Parametric and Bootstrap Tests of Hypotheses, 2005), so it excludes 0 exactly when p is at most 1 - level. When few
images differ, the sample says too little about images that could. So two images are added, one better and one worse, by
the typical change of the images that differ or, if none does, by the largest possible change (as in Bonett and Price,
Journal of Educational and Behavioral Statistics 2012).

Shape suffixes: I images, H heads, C columns of the table, P pairs, B flips at once.
"""

from collections.abc import Callable, Iterator

import numpy as np

from clipret.statistics.intervals import Evidence, FoldTable, weighted_medians
from clipret.statistics.significance import TIE, Estimate, usual_change, within

_HELD_SIGNS = 1 << 22
# The most flips used for intervals; more change the ends by less than the digits shown.
_INTERVAL_FLIPS = 10_000


def flip_tests(
    evidence: Evidence,
    pairs: list[tuple[int, int]],
    *,
    flips: int,
    level: float,
    seed: int,
    on_block: Callable[[int], None] = lambda done: None,
) -> list[Estimate]:
    """The difference of each pair of heads, first less second, with interval and p-value from sign flips.

    pairs     indices of two heads
    on_block  called with the number of flips done so far
    """
    tests = _Flips(evidence, pairs, level=level, flips=flips)
    beyond, done = np.zeros(tests.observed.shape), 0
    for signs in _signs(evidence.images + 2, flips, seed=seed, width=tests.observed.size):
        beyond += tests.count(signs)
        done += len(signs)
        on_block(done)
    low, high = tests.ends()
    p_values = (1 + beyond) / (1 + flips)
    return [
        Estimate(value, *within(*ends, evidence.limits), p=p)
        for value, *ends, p in zip(tests.observed, low, high, p_values, strict=True)
    ]


class _Flips:
    """Counts of extreme flips for pairs of heads, and the ends of their intervals so far.

    A flip divides the images into two parts. Under the hypothesis that the difference is d, its statistic is at least
    as extreme as the observed one if d lies between the mean differences of the two parts. The interval ends where this
    holds for too few flips.
    """

    def __init__(self, evidence: Evidence, pairs: list[tuple[int, int]], *, level: float, flips: int):
        self._evidence, self._pairs = evidence, pairs
        heads = sorted({head for pair in pairs for head in pair})
        self._first, self._second = ([heads.index(pair[side]) for pair in pairs] for side in (0, 1))
        every = np.eye(len(evidence.points))
        shares = np.stack([evidence.shares(every[head]) for head in heads], axis=1)
        self._changes = np.stack(
            [
                usual_change(shares[:, a] - shares[:, b], evidence.limits)
                for a, b in zip(self._first, self._second, strict=True)
            ]
        )
        # (I, pairs or heads, C), whichever are fewer, as there may be many pairs of few heads.
        self._pairwise = len(pairs) < len(heads)
        self._shares = shares[:, self._first] - shares[:, self._second] if self._pairwise else shares
        # Columns of one direction have the same weights.
        directions = list(dict.fromkeys(direction for direction, _ in evidence.columns))
        self._directions = [directions.index(direction) for direction, _ in evidence.columns]
        self._weights = evidence.weights[:, [self._directions.index(place) for place in range(len(directions))]]
        self.observed = np.stack([evidence.points[a] - evidence.points[b] for a, b in pairs])
        # The outermost ends of the first so many flips are kept: (ends, P, C).
        self._left = min(flips, _INTERVAL_FLIPS)
        self._kept = int((1 - level) * (self._left + 1) + TIE)
        self._low, self._high = (np.full((self._kept, *self.observed.shape), sign * np.inf) for sign in (1, -1))

    def count(self, signs: np.ndarray) -> np.ndarray:
        """(P, C) how many of the flips (B, I + 2) are at least as extreme as the observed difference."""
        flipped = self._flipped(signs)
        if self._kept and self._left:
            self._move_ends(flipped[: self._left], signs[: self._left])
        for place in self._evidence.medians:
            for number, pair in enumerate(self._pairs):
                column = self._evidence.columns[place]
                flipped[:, number, place] = _median_difference(self._evidence.tables, signs, pair=pair, column=column)
        return (np.abs(flipped) >= np.abs(self.observed) - TIE).sum(0)

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) of the intervals, each (P, C)."""
        if not self._kept:
            everywhere = np.full(self.observed.shape, np.inf)
            return -everywhere, everywhere
        low, high = self._low.max(0), self._high.min(0)
        return np.where(np.abs(low) < TIE, 0.0, low), np.where(np.abs(high) < TIE, 0.0, high)

    def _flipped(self, signs: np.ndarray) -> np.ndarray:
        """(B, P, C) the differences after the heads are exchanged on images with a negative sign."""
        images = self._evidence.images
        flat = signs[:, :images] @ self._shares.reshape(images, -1)
        summed = flat.reshape(len(signs), *self._shares.shape[1:])
        added = (signs[:, images] - signs[:, images + 1])[:, None, None] * self._changes
        return (summed if self._pairwise else summed[:, self._first] - summed[:, self._second]) + added

    def _move_ends(self, flipped: np.ndarray, signs: np.ndarray) -> None:
        part = (signs[:, : self._evidence.images] @ self._weights)[:, None, self._directions]
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = (self.observed - flipped) / (1 - part), (self.observed + flipped) / (1 + part)
        # A part without images rejects nothing.
        low, high = (
            np.where(np.isnan(end), beyond, end)
            for end, beyond in ((np.minimum(*ends), -np.inf), (np.maximum(*ends), np.inf))
        )
        low, high = np.concatenate([self._low, low]), np.concatenate([self._high, high])
        self._low = np.partition(low, self._kept - 1, axis=0)[: self._kept]
        self._high = np.partition(high, -self._kept, axis=0)[-self._kept :]
        self._left -= len(flipped)


def _median_difference(
    tables: list[FoldTable], signs: np.ndarray, *, pair: tuple[int, int], column: tuple[int, str]
) -> np.ndarray:
    """(B,) difference of the medians, mean over folds, after the heads are exchanged on images with a negative sign."""
    (direction, name), total, start = column, np.zeros(len(signs)), 0
    for table in tables:
        kept = (signs[:, start : start + table.images] > 0).astype(np.float64)
        start += table.images
        values = np.concatenate([table.values[name][direction][:, head] for head in pair])
        owners = np.concatenate([table.owners[direction], table.owners[direction] + table.images])
        sides = (np.hstack([kept, 1 - kept]), np.hstack([1 - kept, kept]))
        ours, theirs = (weighted_medians(weights, values, owners=owners) for weights in sides)
        total += ours - theirs
    return total / len(tables)


def _signs(images: int, flips: int, *, seed: int, width: int = 0) -> Iterator[np.ndarray]:
    """Yield blocks (B, I) of -1 and 1, so small that (B, width) fits in memory. The signs do not depend on B."""
    generator, words = np.random.default_rng((seed, images)), -(-images // 64)
    block = max(1, _HELD_SIGNS // max(images, width))
    for start in range(0, flips, block):
        rows = min(block, flips - start)
        bits = generator.integers(0, 2**64, size=(rows, words), dtype=np.uint64).view(np.uint8)
        yield np.unpackbits(bits, axis=1, count=images) * 2.0 - 1.0
