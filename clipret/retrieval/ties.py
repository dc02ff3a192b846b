"""When two scores tie, in whatever order they were summed up.

Equal captions or images may score differently in the last bits of float32: their embeddings, and the products of them,
depend on the batch or the tile that they fall in. An item ties with a matching one, and so counts against it, when its
score is not below the matching one's edge:

    edge = the matching item's score - TIE_TOLERANCE, all in float64

The tolerance is for embeddings that differ in their last bits. A product in float32 is off by as much itself, and the
more so the larger it is; so a score in float32 decides only what is further than SLACK from the edge. What is closer is
decided by the score in float64.
"""

from dataclasses import dataclass

import numpy as np

TIE_TOLERANCE = 1e-6
# More than a product of unit vectors in float32 is off: the most that was seen is 1.2e-6, where scores are near 1 and
# oneDNN adds up one after the other.
SLACK = 2e-6


@dataclass(frozen=True)
class Edges:
    """The edges of P matching pairs, and what float32 is sure of.

    edges      (P,) float64
    low, high  (P,) float32: a score below `low` is surely below the edge, one that is not below `high` surely not
    """

    edges: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def parts(self, pairs: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """low, high and edges of some pairs."""
        return self.low[pairs], self.high[pairs], self.edges[pairs]

    @classmethod
    def of(cls, scores: np.ndarray) -> "Edges":
        """From the matching pairs' scores in float64, which it takes over."""
        edges = np.subtract(scores, TIE_TOLERANCE, out=scores)
        return cls(edges, (edges - SLACK).astype(np.float32), (edges + SLACK).astype(np.float32))
