"""The triplet loss with each item's hardest negative. clipret.losses.triplet has the definition."""

from typing import NamedTuple

import torch

from clipret.losses.values import APART, LossValue, numbers, spread, total


class HardestSurvey(NamedTuple):
    """What the loss has to know of the whole matrix's columns.

    pairs    (...,) positives of the matrix
    hardest  (..., B_i) largest similarity of the column's negatives; about -APART if there are none
    ties     (..., B_i) how many negatives have it
    active   (..., B_i) how many of the column's positives violate the margin with it; None: no second pass yet
    """

    pairs: torch.Tensor
    hardest: torch.Tensor
    ties: torch.Tensor
    active: torch.Tensor | None = None

    @property
    def finished(self) -> bool:
        """Whether the second pass has begun."""
        return self.active is not None


def loss(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    margin: float | torch.Tensor,
    survey: HardestSurvey | None,
) -> LossValue:
    """The loss of a whole matrix, or of a block of one that a survey is given of."""
    mask = numbers(positives, similarities)
    negatives = similarities.sub(mask, alpha=APART)
    margin = spread(margin, similarities)
    gradient, values = torch.zeros_like(similarities), []
    for dim in (-1, -2):
        whole = survey is not None and dim == -2
        hardest = survey.hardest[..., None, :] if whole else negatives.amax(dim, keepdim=True)
        extremes = _equal(negatives, hardest)
        hinges = _hinges(similarities, mask, reach=hardest + margin)
        values.append(total(hinges))
        violated = hinges.sign_()
        gradient -= violated
        if whole:
            active, ties = survey.active[..., None, :], survey.ties[..., None, :]
        else:
            active, ties = violated.sum(dim, keepdim=True), extremes.sum(dim, keepdim=True)
        gradient += extremes.mul_(active / ties)
    pairs = (total(mask) if survey is None else survey.pairs).clamp_min(1)
    return LossValue((values[0] + values[1]) / pairs, gradient.div_(pairs[..., None, None]), {})


def survey(similarities: torch.Tensor, positives: torch.Tensor, *, previous: HardestSurvey | None) -> HardestSurvey:
    """The first pass: each column's hardest negatives."""
    mask = numbers(positives, similarities)
    negatives = similarities.sub(mask, alpha=APART)
    pairs, hardest = total(mask), negatives.amax(-2)
    ties = _equal(negatives, hardest[..., None, :]).sum(-2)
    if previous is None:
        return HardestSurvey(pairs, hardest, ties)
    both = torch.maximum(previous.hardest, hardest)
    ties = ties * (hardest == both) + previous.ties * (previous.hardest == both)
    return HardestSurvey(previous.pairs + pairs, both, ties)


def resurvey(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    previous: HardestSurvey,
    margin: float | torch.Tensor,
) -> HardestSurvey:
    """The second pass: how many positives violate the margin with them."""
    reach = previous.hardest[..., None, :] + spread(margin, similarities)
    active = _hinges(similarities, numbers(positives, similarities), reach=reach).sign_().sum(-2)
    return previous._replace(active=active if previous.active is None else previous.active + active)


def _hinges(similarities: torch.Tensor, mask: torch.Tensor, *, reach: torch.Tensor) -> torch.Tensor:
    """[reach - s]+ at positives, 0 elsewhere."""
    return (reach - similarities).relu_().mul_(mask)


def _equal(matrix: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """1 where they are equal, else 0, in the matrix's type: quicker than by way of bool."""
    return torch.eq(matrix, values, out=torch.empty_like(matrix))
