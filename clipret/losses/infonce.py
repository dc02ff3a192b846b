"""The contrastive loss of CLIP. Shapes are those of clipret.losses."""

from typing import NamedTuple

import torch

from clipret.losses.values import LARGEST_LOG_SCALE, Loss, LossValue, numbers, spread, total


class InfonceSurvey(NamedTuple):
    """What the softmax over captions has to know of the whole matrix.

    columns    (..., B_i) logsumexp of each column's logits
    positives  (..., B_i) positives of each column
    rows       () the number of rows
    """

    columns: torch.Tensor
    positives: torch.Tensor
    rows: torch.Tensor


def infonce_loss(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    scale: float | torch.Tensor,
    survey: InfonceSurvey | None = None,
) -> LossValue:
    """Symmetric contrastive loss (Radford et al. 2021, figure 3), with as many positives an item as there are.

    With logits l = scale * s, half of the mean over captions of the cross-entropy of softmax over images, and half of
    the mean over images of that of softmax over captions. The target of an item is uniform over its positives: their
    mean stands outside the logarithm, as in SupCon (Khosla et al. 2020, equation 2) and UniCL (Yang et al. 2022). An
    item without positives adds 0, and counts in the mean.

    scale   above 0; the inverse of the temperature
    survey  the whole matrix's, where this is a block of its rows

    The value is at least 0. Learned: scale.
    """
    mask = numbers(positives, similarities)
    scale = spread(scale, similarities)
    logits = similarities * scale
    over_images = logits.log_softmax(-1)
    if survey is None:
        over_captions, counts, rows = logits.log_softmax(-2), mask.sum(-2), similarities.shape[-2]
    else:
        over_captions, counts, rows = logits - survey.columns[..., None, :], survey.positives, survey.rows
    caption_part, gradient = _cross_entropy(over_images, mask, counts=mask.sum(-1, keepdim=True), items=rows)
    image_part, other = _cross_entropy(over_captions, mask, counts=counts[..., None, :], items=similarities.shape[-1])
    gradient += other
    by_scale = total(gradient * similarities)
    return LossValue(caption_part + image_part, gradient.mul_(scale), {"scale": by_scale})


def survey_infonce(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    previous: InfonceSurvey | None = None,
    scale: float | torch.Tensor,
) -> InfonceSurvey:
    """The survey of a block of rows and of those before it, `previous`."""
    columns = (similarities * spread(scale, similarities)).logsumexp(-2)
    counts = numbers(positives, similarities).sum(-2)
    rows = similarities.new_full((), similarities.shape[-2])
    if previous is None:
        return InfonceSurvey(columns, counts, rows)
    return InfonceSurvey(torch.logaddexp(previous.columns, columns), previous.positives + counts, previous.rows + rows)


def _cross_entropy(
    log_probabilities: torch.Tensor, mask: torch.Tensor, *, counts: torch.Tensor, items: int | torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the mean cross-entropy (...,) of the items along one side, and its gradient by the logits.

    counts  each item's positives, to be broadcast to the matrix
    """
    weights = counts.clamp_max(1) / (2 * items)
    targets = mask * (weights / counts.clamp_min(1))
    value = -total(targets * log_probabilities)
    return value, log_probabilities.exp_().mul_(weights).sub_(targets)


def _scalars(clip_log_scale: float) -> dict[str, float]:
    return {"log_scale": min(clip_log_scale, LARGEST_LOG_SCALE)}


LOSS = Loss(infonce_loss, passes=(survey_infonce,), scalars=_scalars, compiled="clipret.losses.compiled.infonce")
