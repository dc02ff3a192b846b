"""Ranks -> confidence intervals of metrics over other images.

The captions of one image are not independent, so images are the sampling units and queries are clustered by image: a
metric is a ratio of sums over images, and its variance that of a ratio estimator (Cochran, Sampling Techniques, 1977,
section 6.3). scripts/simulate_coverage.py measures the coverage of the intervals.

Shape suffixes: I images, Q queries, H heads, M metrics, C columns of a table, B rows of weights.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from statistics import fmean

import numpy as np
from scipy.special import betainc

from clipret.config import DIRECTIONS
from clipret.metrics import RSUM, metric_of
from clipret.retrieval.metrics import overall, per_query
from clipret.retrieval.ranks import Ranks

# Sums of fractions up to this are 0 but for rounding.
_NOTHING = 1e-9
# Bisections of [0, 1] that reach the precision of float64.
_HALVINGS = 60
# Sum of squares, around 1/2, of the two images that are added: one all right, one all wrong.
_TWO_IMAGES = 0.5


@dataclass(frozen=True)
class FoldTable:
    """The results of some heads on one gallery, summed by image. Images without queries are left out.

    names     (M,) names of the metrics, as in metrics.per_query
    figures   (H, 2, M) the metrics over all queries, in the order of config.DIRECTIONS: the reported values
    sums      (I, H, 2, M) sum of each metric over the queries of an image, for intervals and tests
    counts    (I, 2) number of queries of an image
    values    name of a median metric -> direction -> (Q, H) value of every query
    owners    direction -> (Q,) image of every query
    """

    names: tuple[str, ...]
    figures: np.ndarray
    sums: np.ndarray
    counts: np.ndarray
    values: dict[str, tuple[np.ndarray, ...]]
    owners: tuple[np.ndarray, ...]

    @property
    def images(self) -> int:
        """Number of images with a query."""
        return len(self.counts)

    def measure(self) -> np.ndarray:
        """(H, 2, M) the metrics computed from the sums, as flips compute them; equal to figures up to rounding."""
        measured = self.sums.sum(0) / self.counts.sum(0)[:, None]
        for name, directions in self.values.items():
            for direction, values in enumerate(directions):
                measured[:, direction, self.names.index(name)] = np.median(values, axis=0)
        return measured


def tabulate(
    heads: list[dict[str, tuple[Ranks, ...]]], *, k: tuple[int, ...], families: Collection[str]
) -> list[FoldTable]:
    """One FoldTable per fold; heads: for each head direction -> Ranks of each fold, all of the same queries."""
    return [_tabulate_fold(heads, fold, k=k, families=families) for fold in range(len(heads[0][DIRECTIONS[0]]))]


@dataclass(frozen=True)
class Evidence:
    """The results of some heads: their metrics, and the columns that intervals and tests are computed for.

    A metric of several folds is the mean over the folds.

    columns  (index of the direction, metric) of each column; the index is None for rsum
    k        the K of the R@K that rsum adds up
    """

    tables: list[FoldTable]
    columns: tuple[tuple[int | None, str], ...]
    k: tuple[int, ...]

    @property
    def images(self) -> int:
        """Number of images with a query."""
        return sum(table.images for table in self.tables)

    def figures(self) -> list[dict[str, dict[str, float]]]:
        """For each head {"t2i": {"R@1": ...}, "i2t": {...}}: all metrics, bit-identical to metrics.summarise."""
        stacked = np.stack([table.figures for table in self.tables], axis=-1).tolist()
        return [
            {
                direction: {name: fmean(folds) for name, folds in zip(self.tables[0].names, metrics, strict=True)}
                for direction, metrics in zip(DIRECTIONS, directions, strict=True)
            }
            for directions in stacked
        ]

    @cached_property
    def points(self) -> np.ndarray:
        """(H, C) the value of each head."""
        return self._pick(sum(table.measure() for table in self.tables) / len(self.tables))

    @cached_property
    def limits(self) -> np.ndarray:
        """(C,) the largest possible value; inf for unbounded metrics such as ranks, which have no interval."""
        return np.array([2.0 * len(self.k) if name == RSUM else metric_of(name).limit for _, name in self.columns])

    @cached_property
    def medians(self) -> list[int]:
        """Indices of the columns that are medians."""
        return [place for place, (_, name) in enumerate(self.columns) if metric_of(name).is_median]

    @cached_property
    def weights(self) -> np.ndarray:
        """(I, C) the share of each image in the queries of a column; they sum to 1."""
        parts = [table.counts / (table.counts.sum(0) * len(self.tables)) for table in self.tables]
        return np.stack([np.concatenate(parts)[:, _both(direction)].mean(1) for direction, _ in self.columns], axis=1)

    def shares(self, mixture: np.ndarray) -> np.ndarray:
        """(I, C) the contribution of each image to the heads' metrics weighted by mixture (H,); 0 for medians."""
        return np.concatenate([self._pick(shares) for shares, _ in self._parts(mixture)])

    def variance(self, mixture: np.ndarray) -> np.ndarray:
        """(C,) variance of that weighted sum over samples of images; each fold is a stratum."""
        total = 0.0
        for shares, weights in self._parts(mixture):
            # Deviations from the mean of the fold, weighted by the number of queries.
            around = self._pick(shares - shares.sum(0) * weights[:, :, None])
            total = total + (around**2).sum(0) * (len(around) / max(1, len(around) - 1))
        return total

    def _parts(self, mixture: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each fold, (I, 2, M) shares of all metrics and (I, 2) the share of each image in its queries."""
        # Heads of weight 0 are skipped: there may be many.
        heads = np.flatnonzero(mixture)
        for table in self.tables:
            asked = table.counts.sum(0)
            summed = np.tensordot(table.sums[:, heads], mixture[heads], axes=([1], [0]))
            yield summed / (asked[:, None] * len(self.tables)), table.counts / asked

    def _pick(self, values: np.ndarray) -> np.ndarray:
        """(..., C) the columns, picked from values of metrics (..., 2, M)."""
        names = self.tables[0].names
        cuts = (
            [names.index(f"R@{cut}") for cut in self.k]
            if any(direction is None for direction, _ in self.columns)
            else []
        )
        picked = [
            values[..., cuts].sum((-1, -2)) if direction is None else values[..., direction, names.index(name)]
            for direction, name in self.columns
        ]
        return np.stack(picked, axis=-1)


def all_columns(names: tuple[str, ...]) -> tuple[tuple[int | None, str], ...]:
    """(index of the direction, metric) of every column: t2i, i2t, then rsum if it is among the names."""
    both = tuple((direction, name) for direction in range(len(DIRECTIONS)) for name in names if name != RSUM)
    return both + (((None, RSUM),) if RSUM in names else ())


def nested(values, columns: tuple) -> dict:
    """{"t2i": {"R@1": ...}, "i2t": {...}, "rsum": ...} from one value per column."""
    tree: dict = {direction: {} for direction in DIRECTIONS}
    for (direction, name), value in zip(columns, values, strict=True):
        (tree if direction is None else tree[DIRECTIONS[direction]])[name] = value
    return tree


def effective_images(evidence: Evidence, mixture: np.ndarray) -> np.ndarray:
    """(C,) the effective sample size n: as many independent Bernoulli trials would give the same variance.

    mixture  (H,) weights of one head, or of the mean of several

    The variance of Bernoulli trials is p (1 - p) / n. Near 0 and 1 few images determine it, and if all queries are
    right the sample variance is 0. So two images, one all right and one all wrong, are added both to the measured
    variance and to that of one trial per image. If nothing else is known, n is then the number of images.
    """
    values = mixture @ evidence.points / evidence.limits
    variances = evidence.variance(mixture) / evidence.limits**2
    return _effective(values, variances, weights=evidence.weights)


def proportion_interval(values: np.ndarray, sizes: np.ndarray, *, level: float) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), each (C,), of means of values from 0 to 1: the mid-P interval of a proportion.

    values  (C,) from 0 to 1
    sizes   (C,) effective sample sizes, not necessarily integers

    It is the exact interval (Clopper and Pearson 1934) with half of the probability of the observed value (Lancaster,
    JASA 1961). Unlike Wilson's, its coverage nowhere drops below 92 % near 0 and 1.
    """
    right = np.clip(values * sizes, 0, sizes)
    return _lower_end(right, sizes - right, level=level), 1 - _lower_end(sizes - right, right, level=level)


def median_interval(evidence: Evidence, head: int, *, column: int, level: float) -> tuple[float, float]:
    """(low, high) of a head's median in that column: of ranks, or of another per-query value.

    The ends are the quantiles at the ends of the interval of the proportion 1/2 (Woodruff, JASA 1952). For several
    folds they are combined to the interval of the mean (Zou and Donner, Statistics in Medicine 2008). NaN if there are
    so few images that all of them may lie on one side of the median: fewer than six at 95 %.
    """
    (direction, name), middles, squares = evidence.columns[column], [], []
    for table in evidence.tables:
        values = table.values[name][direction][:, head]
        ordered, owners, counts = np.sort(values), table.owners[direction], table.counts[:, direction]
        middle, queries = float(np.median(ordered)), len(ordered)
        weights = counts / queries
        up_to = np.bincount(owners, values <= middle, minlength=table.images) / queries
        share = up_to.sum()
        variance = ((up_to - share * weights) ** 2).sum() * table.images / max(1, table.images - 1)
        size = _effective(np.array([share]), np.array([variance]), weights=weights[:, None])
        if 0.5 ** size[0] > (1 - level) / 2:
            return np.nan, np.nan
        low, high = (float(end[0]) for end in proportion_interval(np.array([0.5]), size, level=level))
        ends = ordered[max(0, ceil(low * queries) - 1)], ordered[min(queries - 1, int(high * queries))]
        middles.append(middle)
        squares.append([(middle - ends[0]) ** 2, (ends[1] - middle) ** 2])
    below, above = np.sqrt(np.sum(squares, axis=0)) / len(middles)
    return np.mean(middles) - below, np.mean(middles) + above


def weighted_medians(weights: np.ndarray, values: np.ndarray, *, owners: np.ndarray) -> np.ndarray:
    """(B,) the median of values, each repeated by the weight of its image; the mean of the middle two if even.

    weights  (B, I) float64, integers
    values   (Q,)
    owners   (Q,) image of each value

    NaN where all weights are 0.
    """
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    images, queries = weights.shape[1], len(values)
    totals = weights @ np.bincount(owners, minlength=images)
    targets = np.stack([(totals - 1) // 2, totals // 2])
    # Search within five standard deviations of the middle (if all queries of an image are equal); rows whose median is
    # outside are searched completely.
    reach = ceil(2.5 * queries / np.sqrt(images))
    start, stop = max(0, queries // 2 - reach), min(queries, queries // 2 + reach)
    below = weights @ np.bincount(owners[:start], minlength=images)
    reached = below[:, None] + np.cumsum(weights[:, owners[start:stop]], axis=1)
    places = start + (reached[None] <= targets[:, :, None]).sum(2)
    for row in np.flatnonzero((below > targets[0]) | (reached[:, -1] <= targets[1])):
        places[:, row] = np.searchsorted(np.cumsum(weights[row, owners]), targets[:, row], side="right")
    medians = values[np.minimum(places, queries - 1)].mean(0)
    return np.where(totals > 0, medians, np.nan)


def _tabulate_fold(heads: list, fold: int, *, k: tuple[int, ...], families: Collection[str]) -> FoldTable:
    images = [heads[0][direction][fold].images for direction in DIRECTIONS]
    asking = np.unique(np.concatenate(images))
    owners = tuple(np.searchsorted(asking, of_queries) for of_queries in images)
    counts = np.stack([np.bincount(of_queries, minlength=len(asking)) for of_queries in owners], axis=1)
    medians: dict[str, tuple[list, ...]] = {}
    figures = sums = None
    for number, head in enumerate(heads):
        for place, direction in enumerate(DIRECTIONS):
            # One head and direction at a time: half a million queries take a hundred megabytes.
            metrics = per_query(head[direction][fold], k=k, families=families)
            if figures is None:
                names = tuple(metrics)
                figures = np.empty((len(heads), len(DIRECTIONS), len(names)))
                sums = np.empty((len(asking), *figures.shape))
            for column, (name, values) in enumerate(metrics.items()):
                figures[number, place, column] = overall(name, values)
                sums[:, number, place, column] = np.bincount(owners[place], values, minlength=len(asking))
                if metric_of(name).is_median:
                    medians.setdefault(name, tuple([] for _ in DIRECTIONS))[place].append(values)
    return FoldTable(
        names=names,
        figures=figures,
        sums=sums,
        counts=counts.astype(np.float64),
        values={name: tuple(np.stack(of_heads, axis=1) for of_heads in places) for name, places in medians.items()},
        owners=owners,
    )


def _effective(values: np.ndarray, variances: np.ndarray, *, weights: np.ndarray) -> np.ndarray:
    # Equal to the number of images if all have equally many queries.
    whole, images = 1 / (weights**2).sum(0), len(weights)
    with np.errstate(invalid="ignore"):
        return whole * (values * (1 - values) * images + _TWO_IMAGES) / (variances * whole * images + _TWO_IMAGES)


def _lower_end(right: np.ndarray, wrong: np.ndarray, *, level: float) -> np.ndarray:
    """The rate at which P(more than `right` successes) + P(exactly as many) / 2 = (1 - level) / 2."""
    tail = (1 - level) / 2
    low, high = np.zeros_like(right), np.ones_like(right)
    for _ in range(_HALVINGS):
        rate = (low + high) / 2
        at_least = np.where(right > _NOTHING, betainc(np.maximum(right, _NOTHING), wrong + 1, rate), 1.0)
        more = np.where(wrong > _NOTHING, betainc(right + 1, np.maximum(wrong, _NOTHING), rate), 0.0)
        below = (at_least + more) / 2 < tail
        low, high = np.where(below, rate, low), np.where(below, high, rate)
    return np.where(right > _NOTHING, low, 0.0)


def _both(direction: int | None) -> list[int]:
    return [0, 1] if direction is None else [direction]
