"""The pairwise loss of SigLIP. Shapes are those of clipret.losses."""

import math

import torch

from clipret.losses.values import Loss, LossValue, numbers, spread, total


def sigmoid_loss(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    scale: float | torch.Tensor,
    bias: float | torch.Tensor,
    survey: None = None,
) -> LossValue:
    """Sigmoid loss (Zhai et al. 2023, algorithm 1): every pair is a decision of its own.

    -1/B_i times the sum over all pairs of log sigmoid(z (scale * s + bias)), z = 1 for positives, -1 for negatives.

    scale   above 0; the inverse of the temperature
    bias    the paper's is learned from -10, as negatives are many
    survey  blocks of rows need none: their number of columns is all that they have to know of the matrix

    The value is at least 0. Learned: scale and bias.
    """
    sign = 1 - 2 * numbers(positives, similarities)
    scale = spread(scale, similarities)
    wrongness = (similarities * scale).add_(spread(bias, similarities)).mul_(sign)
    images = similarities.shape[-1]
    value = total(_softplus(wrongness)) / images
    gradient = wrongness.sigmoid_().mul_(sign).div_(images)
    learned = {"scale": total(gradient * similarities), "bias": total(gradient)}
    return LossValue(value, gradient.mul_(scale), learned)


def _softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + exp(x)) to full precision.

    It is max(0, x) + log(1 + e) with e = exp(-|x|), and log(1 + e) = 2 atanh(e / (2 + e)): on a CPU torch's log1p, and
    with it softplus and logsigmoid, take ten times as long as its atanh.
    """
    small = x.abs().neg_().exp_()
    small.div_(small + 2)
    return x.relu().add_(small.atanh_(), alpha=2)


def _scalars(clip_log_scale: float) -> dict[str, float]:
    """Where SigLIP starts (Zhai et al. 2023, section 3.2)."""
    return {"log_scale": math.log(10.0), "bias": -10.0}


LOSS = Loss(sigmoid_loss, passes=(), scalars=_scalars)
