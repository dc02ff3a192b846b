"""Losses on a similarity matrix and a mask of matching pairs.

Shape suffixes: B_t captions, B_i images of a batch.
"""

import torch

from clipret.config import REDUCTIONS


def margin_loss(
    similarities: torch.Tensor, positives: torch.Tensor, *, margin: float, reduction: str = "balanced"
) -> torch.Tensor:
    """Pairwise cosine margin loss, as torch's CosineEmbeddingLoss halved, over all pairs of a batch.

    A matching pair costs 1/2 (1 - s), any other 1/2 max(0, s - m), with s the pair's cosine and m the margin.

    similarities  (B_t, B_i), cosines in [-1, 1]
    positives     (B_t, B_i) bool, True where caption and image match
    margin        m in [0, 1]; other pairs below it cost nothing
    reduction     mean: the mean over all pairs, so that in a batch of B images with one caption each a matching pair
                  weighs 1/B (the reference implementation's choice);
                  balanced: mean over matching pairs plus mean over the others, whatever the batch size

    Returns a scalar of at least 0. A kind of pair that the batch does not hold adds 0.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, expected one of {REDUCTIONS}")
    costs = torch.where(positives, 1 - similarities, (similarities - margin).clamp_min(0)) / 2
    if reduction == "mean":
        return costs.mean()
    positive_count = positives.sum()
    negative_count = positives.numel() - positive_count
    positive_sum = torch.where(positives, costs, 0).sum()
    negative_sum = torch.where(positives, 0, costs).sum()
    return positive_sum / positive_count.clamp_min(1) + negative_sum / negative_count.clamp_min(1)
