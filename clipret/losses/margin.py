"""The pairwise cosine margin loss. Shapes are those of clipret.losses."""

from typing import NamedTuple

import torch

from clipret.losses.values import Loss, LossValue, numbers, spread, total

_REDUCTIONS = ("balanced", "mean")


class MarginSurvey(NamedTuple):
    """How many positives and negatives the whole matrix has: (...,) or what broadcasts to it."""

    positives: torch.Tensor
    negatives: torch.Tensor


def margin_loss(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    margin: float | torch.Tensor,
    reduction: str = "balanced",
    survey: MarginSurvey | None = None,
) -> LossValue:
    """Pairwise cosine margin loss, as torch's CosineEmbeddingLoss halved, over all pairs of a batch.

    A positive costs 1/2 (1 - s), a negative 1/2 max(0, s - m), with s the pair's cosine and m the margin.

    margin     m in [-1, 1]; negatives below it cost nothing, and have no gradient at it either
    reduction  mean: the mean over all pairs, so that in a batch of B images with one caption each a positive weighs
               1/B (the reference implementation's choice);
               balanced: mean over positives plus mean over negatives, whatever the batch size
    survey     the whole matrix's, where this is a block of its rows

    The value is at least 0. A kind of pair that there is none of adds 0. Nothing is learned.
    Raises ValueError for another reduction.
    """
    mask = numbers(positives, similarities)
    if survey is None:
        survey = _count(mask, similarities)
    positive_weight, negative_weight = weights_of(survey, reduction)
    margin = spread(margin, similarities)
    # s - m at negatives and s - 1 at positives: the value is its inner product with the gradient.
    costs = (similarities - margin).addcmul_(mask, margin - 1)
    gradient = costs.sign().relu_().mul_(negative_weight)
    gradient.lerp_(-positive_weight, mask)
    value = torch.linalg.vecdot(costs.flatten(-2), gradient.flatten(-2))
    return LossValue(value, gradient, {})


def survey_margin(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    previous: MarginSurvey | None = None,
    margin: float | torch.Tensor = 0.0,
    reduction: str = "balanced",
) -> MarginSurvey:
    """The survey of a block of rows and of those before it, `previous`; it depends on the mask alone."""
    counts = _count(numbers(positives, similarities), similarities)
    if previous is None:
        return counts
    return MarginSurvey(previous.positives + counts.positives, previous.negatives + counts.negatives)


def _count(mask: torch.Tensor, similarities: torch.Tensor) -> MarginSurvey:
    count = total(mask)
    return MarginSurvey(count, count.neg().add_(similarities.shape[-2] * similarities.shape[-1]))


def weights_of(survey: MarginSurvey, reduction: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What a positive and a negative weigh, (..., 1, 1), with the cost's 1/2."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, expected one of {_REDUCTIONS}")
    positives, negatives = survey
    if reduction == "mean":
        positives = negatives = positives + negatives
    # Small operations count here, and to add two tensors takes half as long as to multiply one by a number.
    weights = [(count + count).clamp_min_(1).reciprocal_() for count in (positives, negatives)]
    return weights[0][..., None, None], weights[1][..., None, None]


LOSS = Loss(margin_loss, passes=(survey_margin,), survey_of_mask=True, compiled="clipret.losses.compiled.margin")
