"""Metrics of the best-placed matching item, at rank r_1."""

import numpy as np

from clipret.metrics.query_ranks import QueryRanks


def hit_at_k(ranks: QueryRanks, cut: int) -> np.ndarray:
    """(Q,) 1 where r_1 <= K, else 0: a hit rate, the field's R@K."""
    return (ranks.first <= cut).astype(np.float64)


def reciprocal_rank(ranks: QueryRanks) -> np.ndarray:
    """(Q,) 1 / r_1."""
    return 1 / ranks.first


def best_rank(ranks: QueryRanks) -> np.ndarray:
    """(Q,) r_1, from 1."""
    return ranks.first.astype(np.float64)
