"""What the compiled losses have in common. Shapes are those of clipret.losses."""

from typing import NamedTuple

import numpy as np
import torch

from clipret.machine.compiling import compiled


class BlockValue(NamedTuple):
    """A block's share in a loss, for each run.

    value         (S,)
    gradient      (S, B_t, B_i), d value / d similarities, in the memory of the similarities
    along_texts   (S, B_t) and along_images (S, B_i): sums of gradient times similarity
    learned       name of a parameter that can be learned -> d value / d parameter (S,)
    """

    value: torch.Tensor
    gradient: torch.Tensor
    along_texts: torch.Tensor
    along_images: torch.Tensor
    learned: dict[str, torch.Tensor]


def parameter_of(parameter: float | torch.Tensor, run: int) -> np.float32:
    """A run's value of a parameter: a number for all runs, or (S,)."""
    if not isinstance(parameter, torch.Tensor):
        return np.float32(parameter)
    return np.float32(parameter[run].item() if parameter.dim() else parameter.item())


def mask_of(positives: torch.Tensor, run: int) -> np.ndarray:
    """(B_t, B_i) uint8, contiguous: a run's mask of (S or 1, B_t, B_i) bool, or of numbers, 1 and 0."""
    return positives[run if len(positives) > 1 else 0].bool().contiguous().view(torch.uint8).numpy()


@compiled
def places(mask):
    """Where a mask, (n,) of uint8, is not 0: int64. It is looked at eight bytes at a time, as most of it is 0."""
    found = np.empty(mask.sum(), dtype=np.int64)
    if found.size == 0:
        return found
    count, whole = 0, mask.size - mask.size % 8
    words = mask[:whole].view(np.uint64)
    for word in range(words.size):
        if words[word]:
            for place in range(8 * word, 8 * word + 8):
                if mask[place]:
                    found[count] = place
                    count += 1
    for place in range(whole, mask.size):
        if mask[place]:
            found[count] = place
            count += 1
    return found
