"""Ties between scores, independent of the order of summation.

Equal captions or images may have scores that differ in the last bits of float32, as their embeddings and products
depend on the batch or the tile that they are in. An item ties with a matching item, and so counts against it, if its
score is not below the edge of the matching item:

    edge = score of the matching item - TIE_TOLERANCE, all in float64

The tolerance covers embeddings that differ in their last bits. The error of a float32 product is as large, and larger
when its terms are alike, as their rounding errors add up. So a float32 score decides only if it is further than slack()
from the edge; otherwise the score is computed in float64.
"""

from dataclasses import dataclass

import numpy as np

TIE_TOLERANCE = 1e-6
_UNIT_ROUNDOFF = 2.0**-24
# Bound on the product of two norms: of unit vectors, also when rounded to bfloat16.
_NORMS = 1.01


def slack(width: int, *, added: float = 0.0) -> float:
    """A bound on the error of the float32 product of two unit vectors of that width, for any order of summation.

    added  bound on the magnitudes of further terms of the product, which the width counts: those of corrections

    Higham, Accuracy and Stability of Numerical Algorithms, 2002, (3.5): width * unit roundoff * the sum of the terms'
    magnitudes, which is at most the product of the norms. Two more roundoffs are for the edges, stored in float32.
    """
    return ((_NORMS + added) * width + 2 * (1 + added)) * _UNIT_ROUNDOFF


@dataclass(frozen=True)
class Edges:
    """The edges of P matching pairs, with bounds for float32 scores.

    edges      (P,) float64
    low, high  (P,) float32: a score below `low` is certainly below the edge, one not below `high` certainly is not
    """

    edges: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def parts(self, pairs: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """low, high and edges of the selected pairs."""
        return self.low[pairs], self.high[pairs], self.edges[pairs]

    @classmethod
    def of(cls, scores: np.ndarray, *, width: int, added: float = 0.0) -> "Edges":
        """From the float64 scores of the matching pairs, which are overwritten; width and added: as slack has them."""
        edges, most = np.subtract(scores, TIE_TOLERANCE, out=scores), slack(width, added=added)
        return cls(edges, (edges - most).astype(np.float32), (edges + most).astype(np.float32))
