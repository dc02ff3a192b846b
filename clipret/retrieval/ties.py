"""When two scores tie, in whatever order they were summed up.

Equal captions or images may score differently in the last bits of float32: their embeddings, and the products of them,
depend on the batch or the tile that they fall in. An item ties with a matching one, and so counts against it, when its
score is not below the matching one's edge:

    edge = the matching item's score - TIE_TOLERANCE, all in float64

The tolerance is for embeddings that differ in their last bits. A product in float32 is off by as much itself, and by
more where its terms are alike, whose rounding errors add up; so a score in float32 decides only what is further than
slack() from the edge. What is closer is decided by the score in float64.
"""

from dataclasses import dataclass

import numpy as np

TIE_TOLERANCE = 1e-6
_UNIT_ROUNDOFF = 2.0**-24
# Of the norms' product: of unit vectors, and of those rounded to bfloat16.
_NORMS = 1.01


def slack(width: int) -> float:
    """What a product in float32 of two unit vectors of that width is off by, at most, summed up in any order.

    Higham, Accuracy and Stability of Numerical Algorithms, 2002, (3.5): width roundings of the sum of the terms' sizes,
    which is at most the product of the norms. Two more are for the edges, which are kept in float32.
    """
    return (_NORMS * width + 2) * _UNIT_ROUNDOFF


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
    def of(cls, scores: np.ndarray, *, width: int) -> "Edges":
        """From the matching pairs' scores in float64, which it takes over, of embeddings of that width."""
        edges = np.subtract(scores, TIE_TOLERANCE, out=scores)
        return cls(edges, (edges - slack(width)).astype(np.float32), (edges + slack(width)).astype(np.float32))
