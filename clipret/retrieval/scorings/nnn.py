"""Nearest neighbour normalization: cosine(q, g) - alpha * mean of the k largest cosines of g with the bank.

Chowdhury, Wang, Shenoy, Kiela, Schwettmann and Thrush, Nearest Neighbor Normalization Improves Multimodal Retrieval,
EMNLP 2024.
"""

from functools import partial

import torch

from clipret.retrieval.scorings.scoring import Nearest, Scoring

_ALPHAS = (0.25, 0.5, 0.75, 1.0)
_NEIGHBOURS = (1, 2, 4, 8, 16, 32, 64, 128)


def _correction(nearest: Nearest, *, alpha: float, k: int) -> torch.Tensor:
    return alpha * nearest.means(k)


SCORING = Scoring(
    statistics=partial(Nearest, max(_NEIGHBOURS)),
    correction=_correction,
    grid=tuple({"alpha": alpha, "k": k} for alpha in _ALPHAS for k in _NEIGHBOURS),
)
