"""Ranks -> retrieval metrics, on arrays alone. Fractions in [0, 1], higher is better, but for the mean and median rank.

Every metric is first a number of each query, and then their mean (median_rank: their median), so that the queries' own
numbers are what intervals and tests are made from. One rule of ties for all of them, the ranks' own: ties count against
us. With r_1 < r_2 < ... < r_R the ranks of a query's R matching items, and h the number of them up to K:

    R@K          1 if r_1 <= K, else 0: a hit rate, the field's R@K
    mAP@K        sum of i / r_i over r_i <= K, divided by min(K, R): 1 exactly when the ranking is perfect
    mAP_hits@K   the same sum divided by h (what the reference implementation printed); 0 where h is 0
    mAP_all@K    the same sum divided by R; cannot reach 1 when R > K
    recall@K     h / R: the share of the matching items
    nDCG@K       sum of 1 / log2(1 + r_i) over r_i <= K, divided by the sum of 1 / log2(1 + i) over i <= min(K, R)
                 (Jarvelin and Kekalainen, TOIS 2002, with relevance 0 or 1)
    MRR          1 / r_1
    R-Precision  matching items among the first R, divided by R
    mAP@R        sum of i / r_i over r_i <= R, divided by R (Musgrave et al., ECCV 2020)
    mean_rank, median_rank   of r_1, from 1

Shape suffixes: Q queries, P matching pairs.
"""

from collections.abc import Iterator

import numpy as np

from clipret.config import METRICS, METRICS_AT_K, EvalConfig
from clipret.retrieval import Ranks

_QUERIES_AT_ONCE = 65_536


def per_query(
    ranks: Ranks, *, k: tuple[int, ...] = EvalConfig.k, families: tuple[str, ...] = METRICS
) -> dict[str, np.ndarray]:
    """Each metric's (Q,) float64 values, by name: those with a K first, family by family, in the families' own order.

    families  of config.METRICS; median_rank and mean_rank are both the best rank of each query
    """
    unknown = [name for name in families if name not in METRICS]
    if unknown:
        raise ValueError(f"there is no metric {unknown[0]!r}; expected of {METRICS}")
    sums = _Sums(ranks)
    cut = {f"{name}@{cut}": sums.at(name, cut) for name in METRICS_AT_K if name in families for cut in k}
    whole = {name: sums.whole(name) for name in METRICS if name in families and name not in METRICS_AT_K}
    return cut | whole


def summarise(
    ranks: Ranks, *, k: tuple[int, ...] = EvalConfig.k, families: tuple[str, ...] = METRICS
) -> dict[str, float]:
    """{"R@1": ..., "mAP@1": ..., ..., "median_rank": ...}: what per_query gives, over all queries."""
    totals: dict[str, float] = {}
    for part in _parts(ranks):
        for name, values in per_query(part, k=k, families=families).items():
            totals[name] = totals.get(name, 0.0) + values.sum()
    found = {name: float(total / ranks.queries) for name, total in totals.items()}
    return found | ({"median_rank": float(np.median(ranks.first))} if "median_rank" in found else {})


def rsum(directions: dict[str, dict[str, float]], *, k: tuple[int, ...] = EvalConfig.k) -> float:
    """Sum of R@K over these K and both directions: for K = 1, 5, 10 between 0 and 6."""
    return sum(metrics[f"R@{cut}"] for metrics in directions.values() for cut in k)


def _parts(ranks: Ranks) -> Iterator[Ranks]:
    """The same ranks, some queries at a time: all metrics of half a million queries are a hundred megabytes."""
    for start in range(0, ranks.queries, _QUERIES_AT_ONCE):
        offsets = ranks.offsets[start : start + _QUERIES_AT_ONCE + 1]
        yield Ranks(ranks.ranks[offsets[0] : offsets[-1]], offsets - offsets[0], ranks.gallery)


class _Sums:
    """What the metrics of some ranks are made of."""

    def __init__(self, ranks: Ranks):
        self._ranks, self._first, self._count = ranks.ranks, ranks.first, ranks.positives
        self._starts = ranks.offsets[:-1]
        self._place = np.arange(1, len(ranks.ranks) + 1) - np.repeat(self._starts, self._count)
        # The sums of 1 / log2(1 + i), over the first 0, 1, 2 ... places.
        places = np.arange(1, 1 + self._count.max(initial=0))
        self._ideal_gain = np.concatenate([[0.0], np.cumsum(1 / np.log2(1 + places))])

    def at(self, family: str, cut: int) -> np.ndarray:
        """(Q,) of a family that has a K."""
        if family == "R":
            return (self._first <= cut).astype(np.float64)
        within = self._ranks <= cut
        if family == "recall":
            return self._sum(within) / self._count
        if family == "nDCG":
            gain = np.where(within, 1 / np.log2(1.0 + self._ranks), 0.0)
            return self._sum(gain) / self._ideal_gain[np.minimum(cut, self._count)]
        divisors = {
            "mAP": lambda: np.minimum(cut, self._count),
            "mAP_hits": lambda: np.maximum(1, self._sum(within)),
            "mAP_all": lambda: self._count,
        }
        return self._sum(np.where(within, self._place / self._ranks, 0.0)) / divisors[family]()

    def whole(self, name: str) -> np.ndarray:
        """(Q,) of one that has none."""
        if name == "MRR":
            return 1 / self._first
        if name in ("mean_rank", "median_rank"):
            return self._first.astype(np.float64)
        within = self._ranks <= np.repeat(self._count, self._count)
        if name == "R-Precision":
            return self._sum(within) / self._count
        return self._sum(np.where(within, self._place / self._ranks, 0.0)) / self._count

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Over each query's pairs: (P,) -> (Q,)."""
        return np.add.reduceat(values.astype(np.float64), self._starts) if len(values) else np.zeros(0)
