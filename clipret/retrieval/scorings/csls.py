"""Cross-domain similarity local scaling: 2 cosine(q, g) - r(q) - r(g).

r(g) is the mean of the k largest cosines of a gallery item with the bank of queries, and r(q) that of a query with a
bank of gallery items. r(q) is the same for every item that a query is compared with, so it changes no rank, and is not
computed. What is left is, but for the factor 2, cosine(q, g) - r(g) / 2: nearest neighbour normalization at alpha 0.5.

Conneau, Lample, Ranzato, Denoyer and Jégou, Word Translation Without Parallel Data, ICLR 2018.
"""

from functools import partial

import torch

from clipret.retrieval.scorings.scoring import Nearest, Scoring

_NEIGHBOURS = (1, 2, 5, 10, 20, 50, 100)


def _correction(nearest: Nearest, *, k: int) -> torch.Tensor:
    return nearest.means(k) / 2


SCORING = Scoring(
    statistics=partial(Nearest, max(_NEIGHBOURS)),
    correction=_correction,
    grid=tuple({"k": k} for k in _NEIGHBOURS),
)
