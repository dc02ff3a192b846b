"""wise-ft: heads between the one that trainings start from and a trained one."""

from collections.abc import Mapping

import numpy as np
import torch

from clipret.errors import HeadError
from clipret.heads.base import Head


def interpolate(
    zero_shot: Mapping[str, torch.Tensor], trained: Mapping[str, torch.Tensor], *, alpha: float
) -> dict[str, torch.Tensor]:
    """(1 - alpha) * zero_shot + alpha * trained, tensor by tensor (Wortsman et al. 2022, eq. 2); exact at 0 and 1.

    zero_shot, trained  equal names and shapes; of whole numbers, as a head's own counters, the trained one's are taken
    """
    return {
        name: torch.lerp(zero_shot[name], values, alpha) if values.is_floating_point() else values
        for name, values in trained.items()
    }


def wise_ft(head: Head, *, projections: dict[str, np.ndarray], alpha: float) -> Head:
    """The head at alpha on the line from the untrained one (0) to a trained one (1), of the same kind.

    projections  of the baseline. The untrained adapter has the trained head's `down` and an `up` of 0

    Raises HeadError when the two are of different widths.
    """
    untrained, trained = head.untrained(projections), head.tensors
    for name, tensor in trained.items():
        if tensor.shape != untrained[name].shape:
            raise HeadError(
                f"there is no line from the untrained head to this one: {name} is {tuple(untrained[name].shape)} "
                f"there, and {tuple(tensor.shape)} here; wise-ft is for heads that started as the encoder's own."
            )
    return head.like(interpolate(untrained, trained, alpha=alpha))
