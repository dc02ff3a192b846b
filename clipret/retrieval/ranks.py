"""Matching pairs and their ranks.

Shape suffixes: Q queries, P matching pairs.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Ranks:
    """The ranks of each query's matching items.

    ranks    (P,) int64 from 1, ascending within a query
    offsets  (Q + 1,) int64; the ranks of query q are ranks[offsets[q]:offsets[q + 1]], at least one
    gallery  number of items ranked
    rows     (Q,) int64 rows of the queries in the embeddings of their side; None: all rows, in order
    top      (Q, T) int64 the best T items of each query, best first, ties by lower index; None: not computed
    images   (Q,) int64 position of each query's image in the gallery (an image query itself, or the caption's image);
             queries of one image form a cluster in intervals and tests. None: not known
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
        """(Q,) rank of each query's first matching item."""
        return self.ranks[self.offsets[:-1]]

    @property
    def asking(self) -> np.ndarray:
        """(Q,) rows of the queries in the embeddings of their side."""
        return np.arange(self.queries) if self.rows is None else self.rows

    def replaced(self, other: "Ranks", *, where: np.ndarray) -> "Ranks":
        """These ranks, but for the queries where (Q,) is True the other ones, which are of the same matching items."""
        ranks = np.where(np.repeat(where, self.positives), other.ranks, self.ranks)
        top = None if self.top is None else np.where(where[:, None], other.top, self.top)
        return replace(self, ranks=ranks, top=top)

    @property
    def positives(self) -> np.ndarray:
        """(Q,) number of matching items of each query."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Positives:
    """The matching pairs of one direction, query by query.

    queries, items  (P,) int32 rows in the embeddings of the query side and of the gallery
    starts          (rows of the query side + 1,) int64; the pairs of row r are those from starts[r] to starts[r + 1]
    """

    queries: np.ndarray
    items: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, pairs: tuple[np.ndarray, np.ndarray], *, rows: int) -> "Positives":
        """From pairs in any order; rows: number of rows on the query side. A row without a pair is not a query."""
        queries, items = (np.asarray(side, dtype=np.int32) for side in pairs)
        order = np.argsort(queries, kind="stable")
        queries = queries[order]
        return cls(queries, items[order], np.searchsorted(queries, np.arange(rows + 1)))

    def ranks(self, below: np.ndarray, *, gallery: int) -> Ranks:
        """Ranks from counts.

        below    (P,) number of non-matching items below the pair's edge
        gallery  number of items

        An item's rank is 1 + the non-matching items that are not below it + the matching items before it.
        """
        positives = np.diff(self.starts)
        # In place, to save memory with half a million captions.
        ranks = positives[self.queries]
        ranks += below
        np.subtract(gallery + 1, ranks, out=ranks)
        if positives.max(initial=0) > 1:
            # Matching items of a query are in the order of their scores, hence of the number of items that beat them.
            ranks = ranks[np.lexsort((ranks, self.queries))]
            ranks += np.arange(len(ranks)) - self.starts[self.queries]
        rows = np.flatnonzero(positives)
        offsets = np.append(self.starts[rows], len(self.queries))
        return Ranks(ranks=ranks, offsets=offsets, gallery=gallery, rows=rows)
