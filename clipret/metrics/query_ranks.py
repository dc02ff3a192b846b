"""What metrics are computed from.

Shape suffixes: Q queries, P matching pairs.
"""

from functools import cached_property

import numpy as np


class QueryRanks:
    """The ranks of the matching items of some queries, and sums over them, computed once for all metrics.

    ranks    (P,) from 1, ascending within a query
    offsets  (Q + 1,); the ranks of query q are ranks[offsets[q]:offsets[q + 1]], at least one
    gallery  number of items ranked
    """

    def __init__(self, ranks: np.ndarray, offsets: np.ndarray, gallery: int):
        self.ranks, self.offsets, self.gallery = ranks, offsets, gallery
        self._starts = offsets[:-1]
        self._precisions: dict[int | None, np.ndarray] = {}

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(self._starts)

    @cached_property
    def first(self) -> np.ndarray:
        """(Q,) rank of each query's best-placed matching item."""
        return self.ranks[self._starts]

    @cached_property
    def positives(self) -> np.ndarray:
        """(Q,) number of matching items of each query."""
        return np.diff(self.offsets)

    @cached_property
    def within_positives(self) -> np.ndarray:
        """(P,) bool: which items are among the first R of their query, R being its matching items."""
        return self.ranks <= np.repeat(self.positives, self.positives)

    def hits(self, cut: int) -> np.ndarray:
        """(Q,) number of matching items among the first K."""
        return self.sum(self.ranks <= cut)

    def precision_sum(self, cut: int | None) -> np.ndarray:
        """(Q,) sum of i / r_i over r_i <= K, the i-th matching item standing at r_i; K None: the query's own R."""
        if cut not in self._precisions:
            within = self.within_positives if cut is None else self.ranks <= cut
            self._precisions[cut] = self.sum(np.where(within, self._precision, 0.0))
        return self._precisions[cut]

    def gain_sum(self, cut: int) -> np.ndarray:
        """(Q,) sum of 1 / log2(1 + r_i) over r_i <= K."""
        return self.sum(np.where(self.ranks <= cut, self._gain, 0.0))

    def ideal_gain_sum(self, cut: int) -> np.ndarray:
        """(Q,) the largest gain_sum there can be: sum of 1 / log2(1 + i) over i <= min(K, R)."""
        return self._ideal_gains[np.minimum(cut, self.positives)]

    def sum(self, values: np.ndarray) -> np.ndarray:
        """(Q,) float64 sum over each query's matching items, of values (P,)."""
        return np.add.reduceat(values.astype(np.float64), self._starts) if len(values) else np.zeros(0)

    @cached_property
    def _precision(self) -> np.ndarray:
        place = np.arange(1, len(self.ranks) + 1) - np.repeat(self._starts, self.positives)
        return place / self.ranks

    @cached_property
    def _gain(self) -> np.ndarray:
        return 1 / np.log2(1.0 + self.ranks)

    @cached_property
    def _ideal_gains(self) -> np.ndarray:
        # The sums over the first 0, 1, 2 ... places.
        places = np.arange(1, 1 + self.positives.max(initial=0))
        return np.concatenate([[0.0], np.cumsum(1 / np.log2(1 + places))])
