"""Shares of the matching items, of which a query has R."""

import numpy as np

from clipret.metrics.query_ranks import QueryRanks


def recall_at_k(ranks: QueryRanks, cut: int) -> np.ndarray:
    """(Q,) matching items among the first K, divided by R."""
    return ranks.hits(cut) / ranks.positives


def r_precision(ranks: QueryRanks) -> np.ndarray:
    """(Q,) matching items among the first R, divided by R."""
    return ranks.sum(ranks.within_positives) / ranks.positives
