"""Ranks -> retrieval metrics, on arrays alone. Fractions in [0, 1], higher is better, but for the median rank.

Shape suffixes: Q queries.
"""

import numpy as np

from clipret.config import EvalConfig
from clipret.retrieval import Ranks

MAP_DIVISORS = ("min", "hits", "all")


def recall_at_k(ranks: Ranks, *, k: int) -> float:
    """R@K: the share of queries with at least one matching item among the first K (a hit rate, the field's R@K)."""
    return float(np.mean(ranks.first <= k))


def map_at_k(ranks: Ranks, *, k: int, divisor: str = "min") -> float:
    """mAP@K: the mean over queries of average precision cut at rank K.

    Average precision at K is the sum, over the matching items at ranks r <= K, of (matching items up to r) / r,
    divided by

        min   min(K, matching items of the query): 1 exactly when the ranking is perfect (the default)
        hits  matching items found up to K (what the reference implementation printed); 0 where there are none
        all   matching items of the query; cannot reach 1 when there are more than K
    """
    if divisor not in MAP_DIVISORS:
        raise ValueError(f"divisor is {divisor!r}, expected one of {MAP_DIVISORS}")
    place = np.arange(1, len(ranks.ranks) + 1) - np.repeat(ranks.offsets[:-1], ranks.positives)
    hit = ranks.ranks <= k
    precision = np.where(hit, place / ranks.ranks, 0.0)
    starts = ranks.offsets[:-1]
    sums = np.add.reduceat(precision, starts)
    divisors = {
        "min": np.minimum(k, ranks.positives),
        "hits": np.maximum(1, np.add.reduceat(hit, starts, dtype=np.int64)),
        "all": ranks.positives,
    }
    return float(np.mean(sums / divisors[divisor]))


def median_rank(ranks: Ranks) -> float:
    """Median over queries of the rank, from 1, of the best-placed matching item."""
    return float(np.median(ranks.first))


def summarise(ranks: Ranks, *, k: tuple[int, ...] = EvalConfig.k) -> dict[str, float]:
    """{"R@1": ..., "mAP@1": ..., ..., "median_rank": ...} for every K, R@K first."""
    return {
        **{f"R@{cut}": recall_at_k(ranks, k=cut) for cut in k},
        **{f"mAP@{cut}": map_at_k(ranks, k=cut) for cut in k},
        "median_rank": median_rank(ranks),
    }


def rsum(directions: dict[str, dict[str, float]]) -> float:
    """Sum of every R@K of both directions: for K = 1, 5, 10 between 0 and 6."""
    return sum(value for metrics in directions.values() for name, value in metrics.items() if name.startswith("R@"))
