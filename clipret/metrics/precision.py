"""Average precision: the sum of i / r_i over the matching items up to a cut, the i-th of R standing at rank r_i.

What the sum is divided by makes four metrics.
"""

import numpy as np

from clipret.metrics.query_ranks import QueryRanks


def map_at_k(ranks: QueryRanks, cut: int) -> np.ndarray:
    """(Q,) divided by min(K, R): 1 exactly when the ranking is perfect."""
    return ranks.precision_sum(cut) / np.minimum(cut, ranks.positives)


def map_hits_at_k(ranks: QueryRanks, cut: int) -> np.ndarray:
    """(Q,) divided by the matching items among the first K (what the reference implementation printed); 0 without."""
    return ranks.precision_sum(cut) / np.maximum(1, ranks.hits(cut))


def map_all_at_k(ranks: QueryRanks, cut: int) -> np.ndarray:
    """(Q,) divided by R; cannot reach 1 when R > K."""
    return ranks.precision_sum(cut) / ranks.positives


def map_at_r(ranks: QueryRanks) -> np.ndarray:
    """(Q,) cut at R and divided by R (Musgrave et al., ECCV 2020)."""
    return ranks.precision_sum(None) / ranks.positives
