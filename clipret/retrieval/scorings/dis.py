"""Dynamic inverted softmax: exp(beta cosine(q, g)) / sum over the bank of exp(beta cosine(b, g)), for some queries.

Those are the queries whose best item, by cosine, is also the best one of a query of the bank, which hubs are; the
others are ranked by cosine. The logarithm divided by beta has the same order, and is a correction as the others are:

    cosine(q, g) - log(sum over the bank of exp(beta cosine(b, g))) / beta

An item that ties with the best one counts as the best.

Bogolin, Croitoru, Jin, Liu and Albanie, Cross Modal Retrieval with Querybank Normalisation, CVPR 2022; the inverted
softmax is of Smith, Turban, Hamblin and Hammerla, ICLR 2017.
"""

import torch

from clipret.retrieval.scorings.scoring import Scoring
from clipret.retrieval.ties import TIE_TOLERANCE

# Each is twice the one before, so that its exponentials are squares: computing them anew takes longer than the product.
_BETAS = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0)


class InvertedSoftmax:
    """The logarithms of the sums, for each beta, and the items that are the best one of a query of the bank."""

    def __init__(self):
        self._log_sums: dict[float, torch.Tensor] = {}
        self.best: torch.Tensor | None = None

    def add(self, similarities: torch.Tensor) -> None:
        """As scoring.Statistics.add."""
        best = (similarities >= similarities.amax(dim=0) - TIE_TOLERANCE).any(dim=1)
        self.best = best if self.best is None else self.best | best
        largest = similarities.amax(dim=1, keepdim=True)
        # Of what is below the largest: none overflows, and what becomes 0 is too small to count.
        powers = (similarities - largest).mul_(_BETAS[0]).exp_()
        for beta in _BETAS:
            powers = powers if beta == _BETAS[0] else powers.square_()
            summed = powers.sum(dim=1).double().log() + beta * largest[:, 0].double()
            before = self._log_sums.get(beta)
            self._log_sums[beta] = summed if before is None else torch.logaddexp(before, summed)

    def correction(self, *, beta: float) -> torch.Tensor:
        """(G,) float64, as Scoring.correction."""
        return self._log_sums[beta] / beta


def _triggers(statistics: InvertedSoftmax) -> torch.Tensor:
    return statistics.best


SCORING = Scoring(
    statistics=InvertedSoftmax,
    correction=InvertedSoftmax.correction,
    grid=tuple({"beta": beta} for beta in _BETAS),
    triggers=_triggers,
)
