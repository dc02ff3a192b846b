"""What matches what, and where it came to stand.

Shape suffixes: Q queries, P matching pairs.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ranks:
    """Where each query's matching items stand in its ranking.

    ranks    (P,) int64 from 1, ascending within a query
    offsets  (Q + 1,) int64; the ranks of query q are ranks[offsets[q]:offsets[q + 1]], at least one
    gallery  number of items ranked
    rows     (Q,) int64 which rows of its side's embeddings the queries are; None: all, in order
    top      (Q, T) int64 the best T items of each query, best first, of equal ones the earlier; None: not asked for
    images   (Q,) int64 which image of the gallery each query is of: itself, or a caption's; queries of one image are
             resampled together. None: not known
    """

    ranks: np.ndarray
    offsets: np.ndarray
    gallery: int
    rows: np.ndarray | None = None
    top: np.ndarray | None = None
    images: np.ndarray | None = None

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(self.offsets) - 1

    @property
    def first(self) -> np.ndarray:
        """(Q,) rank of each query's best-placed matching item."""
        return self.ranks[self.offsets[:-1]]

    @property
    def asking(self) -> np.ndarray:
        """(Q,) rows of the queries among their side's embeddings."""
        return np.arange(self.queries) if self.rows is None else self.rows

    @property
    def positives(self) -> np.ndarray:
        """(Q,) number of matching items of each query."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Positives:
    """The matching pairs of one direction, query by query.

    queries, items  (P,) int32 rows of the asking side's embeddings and of the gallery's
    starts          (rows of the asking side + 1,) int64; the pairs of row r are those from starts[r] to starts[r + 1]
    """

    queries: np.ndarray
    items: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, pairs: tuple[np.ndarray, np.ndarray], *, rows: int) -> "Positives":
        """From pairs in any order; rows: how many there are on the asking side. A row without a pair is not a query."""
        queries, items = (np.asarray(side, dtype=np.int32) for side in pairs)
        order = np.argsort(queries, kind="stable")
        queries = queries[order]
        return cls(queries, items[order], np.searchsorted(queries, np.arange(rows + 1)))

    def ranks(self, below: np.ndarray, *, gallery: int) -> Ranks:
        """Ranks from counts.

        below    (P,) of the items that do not match the pair's query, the number of those below its edge
        gallery  number of items

        An item's rank is 1 + the items that do not match its query and are not below it + the matching ones before it.
        """
        positives = np.diff(self.starts)
        # In place: of half a million captions each array counts.
        ranks = positives[self.queries]
        ranks += below
        np.subtract(gallery + 1, ranks, out=ranks)
        if positives.max(initial=0) > 1:
            # Within a query, its own matching items stand in the order of their scores, hence of what beats them.
            ranks = ranks[np.lexsort((ranks, self.queries))]
            ranks += np.arange(len(ranks)) - self.starts[self.queries]
        rows = np.flatnonzero(positives)
        offsets = np.append(self.starts[rows], len(self.queries))
        return Ranks(ranks=ranks, offsets=offsets, gallery=gallery, rows=rows)
