"""Losses of your own, for `clipret train --loss my_losses.py:soft_margin`."""

import torch
from torch.nn import functional


def soft_margin(similarities: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    """The margin loss with a smooth hinge: a negative pair near the margin costs a little, not nothing.

    similarities  (captions, images) cosines of a batch
    matches       bool, of the same shape: True where caption and image belong together
    """
    sharpness, margin = 20.0, 0.1
    positive = (1 - similarities[matches]).mean()
    negative = functional.softplus(sharpness * (similarities[~matches] - margin)).mean() / sharpness
    return 0.5 * (positive + negative)


def soft_targets(similarities: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy towards soft targets: a tenth of each item's weight is spread over the whole batch."""
    smoothing, scale = 0.1, 50.0
    loss = similarities.new_zeros(())
    for scores, targets in ((similarities, matches.float()), (similarities.T, matches.T.float())):
        targets = targets / targets.sum(dim=1, keepdim=True)
        targets = (1 - smoothing) * targets + smoothing / targets.shape[1]
        loss = loss - (targets * functional.log_softmax(scale * scores, dim=1)).sum(dim=1).mean()
    return loss / 2
