"""What the losses have in common: their result, and masks and parameters in the form that is quickest to compute with.

On a CPU, operations on bool masks take several times as long as the same arithmetic on float32.
"""

from typing import NamedTuple

import torch

# Added to a similarity, this puts a pair out of the question for a maximum or a hinge. It is finite, so that no
# operation makes NaN of it, and so large that what it was added to is lost.
APART = 1e30


class LossValue(NamedTuple):
    """A loss and its derivatives, for each run.

    value     (...,)
    gradient  (..., B_t, B_i), d value / d similarities
    learned   name of a parameter that can be learned -> d value / d parameter (...,)
    """

    value: torch.Tensor
    gradient: torch.Tensor
    learned: dict[str, torch.Tensor]


def numbers(positives: torch.Tensor, similarities: torch.Tensor) -> torch.Tensor:
    """The mask as numbers of the similarities' type: 1 where it is True, else 0. Its shape stays. One that is of these
    numbers already is taken as it is."""
    if positives.dtype == similarities.dtype:
        return positives
    return positives.view(torch.uint8).to(similarities.dtype)


def spread(parameter: float | torch.Tensor, similarities: torch.Tensor) -> torch.Tensor:
    """A parameter, a number or (...,), as (..., 1, 1) of the similarities' type."""
    if isinstance(parameter, torch.Tensor):
        return parameter.to(similarities.dtype)[..., None, None]
    return similarities.new_full((1, 1), parameter)


def total(matrix: torch.Tensor) -> torch.Tensor:
    """(..., B_t, B_i) -> (...,)."""
    return matrix.sum((-2, -1))
