"""The pairwise cosine margin loss of blocks of rows, compiled; formulas are those of clipret.losses.margin."""

from functools import partial

import numpy as np
import torch

from clipret.losses.compiled.blocks import BlockValue, mask_of, parameter_of
from clipret.losses.margin import MarginSurvey, weights_of
from clipret.machine.compiling import compiled


def survey(similarities: torch.Tensor, positives: torch.Tensor, **parameters) -> MarginSurvey:
    """The survey of a block of rows; it depends on the mask alone."""
    runs, rows, images = similarities.shape
    counts = [float(_count(mask_of(positives, run))) for run in range(len(positives))]
    found = torch.tensor(counts).expand(runs)
    return MarginSurvey(found, rows * images - found)


def joined(first: MarginSurvey, second: MarginSurvey) -> MarginSurvey:
    """The survey of the rows of two."""
    return MarginSurvey(*(a + b for a, b in zip(first, second, strict=True)))


def function(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    first: int,
    survey: MarginSurvey,
    margin: float | torch.Tensor,
    reduction: str = "balanced",
) -> BlockValue:
    """As margin_loss of a block that begins at row `first`, of float32; the gradient takes the similarities' place."""
    runs, rows, images = similarities.shape
    weights = [weight.reshape(-1).tolist() for weight in weights_of(survey, reduction)]
    values, along_texts, along_images = torch.empty(runs), torch.empty(runs, rows), torch.zeros(runs, images)
    for run in range(runs):
        arrays = similarities[run], along_texts[run], along_images[run]
        numbers = [parameter_of(margin, run), *(np.float32(weight[run]) for weight in weights)]
        values[run] = _rows(mask_of(positives, run), *(array.numpy() for array in arrays), *numbers)
    return BlockValue(values, similarities, along_texts, along_images, {})


@compiled
def _count(mask):
    count = 0
    for row in range(len(mask)):
        count += mask[row].sum()
    return count


@partial(compiled, fastmath={"reassoc", "contract"})
def _rows(mask, similarities, along_texts, along_images, margin, positive_weight, negative_weight):
    """Gradients in the place of the similarities; their value. The sums are added to along_images."""
    none, one = np.float32(0), np.float32(1)
    value = 0.0
    for row in range(len(mask)):
        cost_of_row, along_row = none, none
        numbers, matches = similarities[row], mask[row]
        for column in range(numbers.size):
            s, matching = numbers[column], matches[column] != 0
            cost = s - (one if matching else margin)
            pushed = negative_weight if cost > none else none
            gradient = -positive_weight if matching else pushed
            cost_of_row += cost * gradient
            along = s * gradient
            along_row += along
            along_images[column] += along
            numbers[column] = gradient
        value += cost_of_row
        along_texts[row] = along_row
    return value
