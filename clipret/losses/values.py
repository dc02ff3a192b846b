"""What the losses have in common: declaration and result, and masks and parameters in the form that is fastest.

On a CPU, operations on bool masks take several times as long as the same arithmetic on float32.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

# CLIP's own bound of its logit scale, as a logarithm (Radford et al. 2021, section 2.5).
LARGEST_LOG_SCALE = math.log(100)
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


def _no_scalars(clip_log_scale: float) -> dict[str, float]:
    return {}


def _always(settings: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True)
class Loss:
    """What a loss's file says of it.

    function        (similarities, positives, *, survey=None, **parameters) -> LossValue
    passes          functions that make the survey of a matrix in blocks, in their order
    survey_of_mask  whether the survey depends on the mask alone, so that it can be kept for a mask that comes again
    scalars         CLIP's own logit scale, a logarithm -> the scalars that are learned, and where they start. log_X
                    stands for parameter X, of which the logarithm is learned
    capturable      settings -> whether a step asks the device for no value, so that it can be a CUDA graph
    compiled        module with the one pass and the function for blocks of float32 on a CPU, as `survey` and `function`
                    (losses.compiled.blocks.BlockValue); empty: blocks are computed by torch
    """

    function: Callable[..., LossValue]
    passes: tuple[Callable, ...]
    survey_of_mask: bool = False
    scalars: Callable[[float], dict[str, float]] = _no_scalars
    capturable: Callable[[Mapping[str, Any]], bool] = _always
    compiled: str = ""


def numbers(positives: torch.Tensor, similarities: torch.Tensor) -> torch.Tensor:
    """The mask as numbers of the similarities' type: 1 where it is True, else 0. Its shape stays. One that is of these
    numbers already is taken as it is."""
    if positives.dtype != torch.bool:
        return positives.to(similarities.dtype)
    return positives.view(torch.uint8).to(similarities.dtype)


def spread(parameter: float | torch.Tensor, similarities: torch.Tensor) -> torch.Tensor:
    """A parameter, a number or (...,), as (..., 1, 1) of the similarities' type."""
    if isinstance(parameter, torch.Tensor):
        return parameter.to(similarities.dtype)[..., None, None]
    return similarities.new_full((1, 1), parameter)


def total(matrix: torch.Tensor) -> torch.Tensor:
    """(..., B_t, B_i) -> (...,)."""
    return matrix.sum((-2, -1))
