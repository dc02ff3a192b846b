"""Normalised discounted cumulative gain."""

import numpy as np

from clipret.metrics.query_ranks import QueryRanks


def ndcg_at_k(ranks: QueryRanks, cut: int) -> np.ndarray:
    """(Q,) sum of 1 / log2(1 + r_i) over r_i <= K, divided by the largest such sum that there can be.

    Jarvelin and Kekalainen, TOIS 2002, with relevance 0 or 1.
    """
    return ranks.gain_sum(cut) / ranks.ideal_gain_sum(cut)
