"""Losses on similarities and a mask of matching pairs: value and gradient at once, without autograd.

    loss(similarities, positives, **parameters, survey=None) -> LossValue

Shape suffixes: ... independent runs, each as if it were alone; B_t captions and B_i images of a batch.

similarities  (..., B_t, B_i) cosines, float32 or float64
positives     bool, of that shape or one that broadcasts to it: True where caption and image match; every other pair
              is a negative. Or the same as 1 and 0 of the similarities' type, which saves some time
parameters    the loss's own: numbers, or tensors (...,) with one for each run

NaN among the similarities of a run makes its value NaN.

A matrix that is too large is computed in blocks of rows. The values of the blocks then add up to that of the whole
matrix, as do the gradients of learned scalars, and the gradients of the similarities are those of the whole matrix, row
by row, if each block gets the survey of the whole: what the loss needs to know of the other blocks. A loss declares the
passes that make its survey. Each pass goes over all blocks, one pass after the other:

    loss = load_loss(name)
    survey = None
    for take in loss.passes:
        for similarities, positives in blocks:
            survey = take(similarities, positives, previous=survey, **parameters)

The similarities have to be the same, to the bit, every time.

LOSSES is the table: a new loss is a file in this folder that binds LOSS to its declaration (losses.values.Loss), and a
row here. This module is imported with the settings, so it imports neither torch nor anything else of clipret.
"""

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from clipret.losses.values import Loss


class LossRow(NamedTuple):
    """Where a loss is declared, and which settings of a training it takes.

    module    imported when the loss is used
    settings  names among those of TrainConfig, passed on as they are but for two: `margin` may move during a training
              or follow the batch, and `temperature` fixes the parameter `scale`, which is learned otherwise
    """

    module: str
    settings: tuple[str, ...] = ()


LOSSES: dict[str, LossRow] = {
    "margin": LossRow("clipret.losses.margin", settings=("margin", "reduction")),
    "infonce": LossRow("clipret.losses.infonce", settings=("temperature",)),
    "triplet": LossRow("clipret.losses.triplet", settings=("margin", "violation")),
    "sigmoid": LossRow("clipret.losses.sigmoid", settings=("temperature",)),
}


def load_loss(name: str) -> "Loss":
    """The declaration of a loss of the table; imports its file, and torch."""
    return importlib.import_module(LOSSES[name].module).LOSS
