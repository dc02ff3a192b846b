"""Ranks -> how far metrics would move on other images: a bootstrap that resamples images, from stored ranks alone.

Captions of one image are not independent of each other, so that images are drawn and queries follow their image (a
cluster bootstrap: Davison and Hinkley, Bootstrap Methods and Their Application, 1997, section 3.8). One draw of images
resamples both directions, and the same seed draws the same images for every head, so that differences are paired.

Shape suffixes: I images, Q queries, H heads, M metrics, B draws at once, R draws in all.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np

from clipret.config import DIRECTIONS, METRICS
from clipret.config.columns import RSUM
from clipret.config.comparison import CompareConfig
from clipret.metrics import per_query
from clipret.rankings import Ranking

MEDIAN = "median_rank"
# Weights that are held at once, draws x images: 32 MiB.
_HELD_WEIGHTS = 1 << 22


@dataclass(frozen=True)
class FoldTable:
    """What some heads got on one gallery, summed up image by image. Images that ask nothing are not in it.

    names     (M,) names of the metrics, as metrics.per_query has them
    sums      (I, H, 2, M) sum of each metric over the queries of an image, in the order of rankings.DIRECTIONS
    counts    (I, 2) queries of an image
    firsts    direction -> (Q, H) best rank of every query: what medians are made of
    owners    direction -> (Q,) image of every query
    """

    names: tuple[str, ...]
    sums: np.ndarray
    counts: np.ndarray
    firsts: tuple[np.ndarray, ...]
    owners: tuple[np.ndarray, ...]

    @property
    def images(self) -> int:
        """Number of images that ask something."""
        return len(self.counts)

    def measure(self, weights: np.ndarray) -> np.ndarray:
        """(B, H, 2, M) metrics where each image counts as often as its weight says; NaN where no query is left.

        weights  (B, I) float64, whole numbers
        """
        flat = weights @ self.sums.reshape(self.images, -1)
        asked = weights @ self.counts
        with np.errstate(invalid="ignore"):
            values = flat.reshape(len(weights), *self.sums.shape[1:]) / asked[:, None, :, None]
        if MEDIAN in self.names:
            place = self.names.index(MEDIAN)
            for way, (firsts, owners) in enumerate(zip(self.firsts, self.owners, strict=True)):
                for head in range(values.shape[1]):
                    values[:, head, way, place] = weighted_medians(weights, firsts[:, head], owners=owners)
        return values


def tabulate(
    heads: list[dict[str, tuple[Ranking, ...]]], *, k: tuple[int, ...], families: tuple[str, ...]
) -> list[FoldTable]:
    """One FoldTable a fold, of heads whose rankings (direction -> one Ranking a fold) are of the same queries."""
    return [_tabulate_fold(heads, fold, k=k, families=families) for fold in range(len(heads[0][DIRECTIONS[0]]))]


def resample(tables: list[FoldTable], *, resamples: int, seed: int) -> np.ndarray:
    """(R, H, 2, M) metrics of each draw of images, with replacement and as many as there are, each fold by itself.

    A metric of several folds is the mean of the folds'. Memory does not grow with R x I: draws are made in blocks, and
    are the same however large these are.
    """
    total = 0.0
    for number, table in enumerate(tables):
        found = [table.measure(weights) for weights in _draws(table.images, resamples, seed=(seed, number))]
        total = total + np.concatenate(found) / len(tables)
    return total


def bootstrap_intervals(
    rankings: dict[str, tuple[Ranking, ...]],
    *,
    k: tuple[int, ...],
    families: tuple[str, ...] = METRICS,
    resamples: int = CompareConfig.resamples,
    level: float = CompareConfig.level,
    seed: int = CompareConfig.seed,
) -> dict:
    """Percentile bootstrap intervals over images of one head's metrics, and of rsum over the R@K among them.

    rankings   direction -> one Ranking a fold, both directions
    families   of config.METRICS
    resamples  draws of images
    level      share of the draws that an interval holds, in the middle

    Returns {"t2i": {"R@1": [low, high], ...}, "i2t": {...}, "rsum": [low, high]}; rsum only where R is among the
    families. The same seed gives the same intervals.

    A draw's mean metric is sum of w_i S_i / sum of w_i n_i, with w_i how often image i was drawn, S_i the sum over its
    queries and n_i their number; its median rank is the median of the queries repeated w_i times. What the intervals
    cover is the choice of the queries from others of their kind, captions with their images. The gallery stays as it
    is: an interval says nothing of larger galleries or of other distractors, and nothing of another training. At the
    ends of a metric's range it is too narrow: where every query is right, every draw is, and the interval is [1, 1].
    A median of small whole ranks hardly moves, and its interval holds more than its level.
    """
    tables = tabulate([rankings], k=k, families=families)
    draws = resample(tables, resamples=resamples, seed=seed)[:, 0]
    return name_intervals(draws, names=tables[0].names, k=k if "R" in families else (), level=level)


def name_intervals(
    draws: np.ndarray, *, names: tuple[str, ...], k: tuple[int, ...], level: float = CompareConfig.level
) -> dict:
    """{"t2i": {"R@1": [low, high], ...}, "i2t": {...}, "rsum": [low, high]} of draws (R, 2, M).

    k  what rsum adds up; nothing: it is left out
    """
    low, high = percentiles(draws, level=level).tolist()
    intervals = {
        way: {name: [low[at][place], high[at][place]] for place, name in enumerate(names)}
        for at, way in enumerate(DIRECTIONS)
    }
    if k:
        summed = draws[..., [names.index(f"R@{cut}") for cut in k]].sum((-1, -2))
        intervals[RSUM] = percentiles(summed, level=level).tolist()
    return intervals


def percentiles(values: np.ndarray, *, level: float) -> np.ndarray:
    """(2, ...) the ends of the middle `level` of draws (R, ...); draws without a query, NaN, are left out."""
    return np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)


def weighted_medians(weights: np.ndarray, values: np.ndarray, *, owners: np.ndarray) -> np.ndarray:
    """(B,) the median of values, each repeated as often as its image weighs; of an even number, the middle two's mean.

    weights  (B, I) float64, whole numbers
    values   (Q,)
    owners   (Q,) image of each value

    NaN where nothing is left.
    """
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]
    images, queries = weights.shape[1], len(values)
    totals = weights @ np.bincount(owners, minlength=images)
    targets = np.stack([(totals - 1) // 2, totals // 2])
    # Five standard deviations of the middle where the queries of an image are all alike; what is beyond is done apart.
    reach = ceil(2.5 * queries / np.sqrt(images))
    start, stop = max(0, queries // 2 - reach), min(queries, queries // 2 + reach)
    below = weights @ np.bincount(owners[:start], minlength=images)
    reached = below[:, None] + np.cumsum(weights[:, owners[start:stop]], axis=1)
    places = start + (reached[None] <= targets[:, :, None]).sum(2)
    for row in np.flatnonzero((below > targets[0]) | (reached[:, -1] <= targets[1])):
        places[:, row] = np.searchsorted(np.cumsum(weights[row, owners]), targets[:, row], side="right")
    medians = values[np.minimum(places, queries - 1)].mean(0)
    return np.where(totals > 0, medians, np.nan)


def _tabulate_fold(heads: list, fold: int, *, k: tuple[int, ...], families: tuple[str, ...]) -> FoldTable:
    asked = [heads[0][way][fold].images for way in DIRECTIONS]
    asking = np.unique(np.concatenate(asked))
    owners = tuple(np.searchsorted(asking, images) for images in asked)
    sums, names = None, ()
    for number, head in enumerate(heads):
        for way, direction in enumerate(DIRECTIONS):
            # Of one head and direction at a time: a hundred megabytes of half a million queries.
            metrics = per_query(head[direction][fold].ranks, k=k, families=families)
            if sums is None:
                names = tuple(metrics)
                sums = np.empty((len(asking), len(heads), len(DIRECTIONS), len(names)))
            for place, values in enumerate(metrics.values()):
                sums[:, number, way, place] = np.bincount(owners[way], values, minlength=len(asking))
    return FoldTable(
        names=names,
        sums=sums,
        counts=np.stack([np.bincount(images, minlength=len(asking)) for images in owners], axis=1).astype(np.float64),
        firsts=tuple(np.stack([head[way][fold].ranks.first for head in heads], axis=1) for way in DIRECTIONS),
        owners=owners,
    )


def _draws(images: int, resamples: int, *, seed: tuple[int, ...]) -> Iterator[np.ndarray]:
    """How often each image is drawn, (B, I) at a time."""
    generator = np.random.default_rng(seed)
    block = max(1, _HELD_WEIGHTS // images)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(0, images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)
