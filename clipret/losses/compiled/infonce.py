"""InfoNCE of blocks of rows, compiled; formulas are those of clipret.losses.infonce.

One exponential of a pair serves both softmaxes: the probability in its row, times a factor of its row, times one of its
column. Where a factor would be too large, or a sum of exponentials too small, it is done the long way.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from clipret.losses.compiled.blocks import BlockValue, mask_of, parameter_of, places
from clipret.losses.compiled.exponential import exp_of_nonpositive
from clipret.machine.compiling import compiled

# exp(60) times what float32 holds of a probability is still far from its largest number.
_LARGEST_SHIFT = np.float32(60)
# A sum of exponentials above this has lost nothing of note: what was lost is 1e-38 of each.
_SMALLEST_SUM = np.float32(1e-25)
_NONE, _ONE = np.float32(0), np.float32(1)
_LANES = 16


class Survey(NamedTuple):
    """What a block has to know of the whole matrix: as InfonceSurvey, and its rows.

    columns    (S, B_i) logsumexp of each column's logits
    positives  (S, B_i) positives of each column
    rows       (S, B_t) logsumexp of each row's logits
    """

    columns: torch.Tensor
    positives: torch.Tensor
    rows: torch.Tensor


def survey(similarities: torch.Tensor, positives: torch.Tensor, *, scale: float | torch.Tensor) -> Survey:
    """The survey of a block of rows."""
    runs, rows, images = similarities.shape
    found = Survey(torch.empty(runs, images), torch.zeros(runs, images), torch.empty(runs, rows))
    for run in range(runs):
        arrays = similarities[run], *(part[run] for part in found)
        _survey_rows(mask_of(positives, run), *(array.numpy() for array in arrays), parameter_of(scale, run))
    return found


def joined(first: Survey, second: Survey) -> Survey:
    """The survey of the rows of two, those of the first before those of the second."""
    return Survey(
        torch.logaddexp(first.columns, second.columns),
        first.positives + second.positives,
        torch.cat([first.rows, second.rows], dim=1),
    )


def function(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    first: int,
    survey: Survey,
    scale: float | torch.Tensor,
) -> BlockValue:
    """As infonce_loss of a block that begins at row `first`, of float32; the gradient takes the similarities' place."""
    runs, rows, images = similarities.shape
    values, along_texts, along_images = torch.empty(runs), torch.empty(runs, rows), torch.zeros(runs, images)
    scales = [parameter_of(scale, run) for run in range(runs)]
    for run, own_scale in enumerate(scales):
        by_image = torch.stack(_of_columns(survey.columns[run], survey.positives[run]))
        logs = survey.rows[run, first : first + rows]
        arrays = similarities[run], along_texts[run], along_images[run], by_image, logs
        numbers = own_scale, np.float32(survey.columns[run].min().item()), np.float32(0.5 / survey.rows.shape[1])
        values[run] = _rows(mask_of(positives, run), *(array.numpy() for array in arrays), *numbers)
    by_scale = along_texts.sum(1) / torch.tensor(scales)
    return BlockValue(values, similarities, along_texts, along_images, {"scale": by_scale})


def _of_columns(columns: torch.Tensor, positives: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of each column (B_i,): its logsumexp, its weight, a positive's target, and its factor of the probabilities."""
    weights = positives.clamp_max(1) / (2 * len(columns))
    return columns, weights, weights / positives.clamp_min(1), weights * (columns.min() - columns).exp()


@compiled
def _largest(numbers):
    """The largest of float32 numbers; any of them if there is a NaN."""
    lanes = np.full(_LANES, numbers[0], dtype=np.float32)
    whole = numbers.size - numbers.size % _LANES
    for first in range(0, whole, _LANES):
        for lane in range(_LANES):
            number = numbers[first + lane]
            lanes[lane] = number if number > lanes[lane] else lanes[lane]
    largest = numbers[0]
    for lane in range(_LANES):
        largest = max(largest, lanes[lane])
    for place in range(whole, numbers.size):
        largest = max(largest, numbers[place])
    return largest


@compiled
def _log_of_sum(numbers, scale):
    """logsumexp of scale * numbers."""
    largest = numbers.max()
    total = _NONE
    for number in numbers:
        total += exp_of_nonpositive(scale * (number - largest))
    return scale * largest + np.log(total)


@partial(compiled, fastmath={"reassoc", "contract"})
def _add_exponentials(numbers, scale, reference, sums):
    """Add exp(scale * numbers - reference) to the sums of the columns; their total."""
    total = _NONE
    for column in range(numbers.size):
        exponential = exp_of_nonpositive(scale * numbers[column] - reference)
        sums[column] += exponential
        total += exponential
    return total


@compiled
def _survey_rows(mask, similarities, columns, counts, logs, scale):
    """Puts logsumexp of each column into columns (B_i,), and of each row into logs; adds to the positives, counts."""
    sums = np.zeros(columns.size, dtype=np.float32)
    reference = scale * _largest(similarities[0])
    for row in range(len(mask)):
        numbers = similarities[row]
        largest = scale * _largest(numbers)
        if largest > reference:
            sums *= exp_of_nonpositive(reference - largest)
            reference = largest
        total = _add_exponentials(numbers, scale, reference, sums)
        logs[row] = _log_of_sum(numbers, scale) if total < _SMALLEST_SUM else reference + np.log(total)
        for column in places(mask[row]):
            counts[column] += _ONE
    for column in range(columns.size):
        if sums[column] < _SMALLEST_SUM:
            columns[column] = _log_of_sum(similarities[:, column], scale)
        else:
            columns[column] = reference + np.log(sums[column])


@partial(compiled, fastmath={"reassoc", "contract"})
def _softmaxes(numbers, scale, log, of_row, of_columns, factors, along_images):
    """scale times the gradient, but for the positives' targets, in the place of the similarities; the sum of products.

    log         the row's logsumexp
    of_row      its weight
    of_columns  its factor of the probabilities in the columns
    """
    along_row = _NONE
    for column in range(numbers.size):
        s = numbers[column]
        probability = exp_of_nonpositive(min(scale * s - log, _NONE))
        gradient = scale * (probability * (of_row + of_columns * factors[column]))
        along = s * gradient
        along_row += along
        along_images[column] += along
        numbers[column] = gradient
    return along_row


@partial(compiled, fastmath={"reassoc", "contract"})
def _softmaxes_apart(numbers, scale, log, of_row, columns, weights, along_images):
    """As _softmaxes, with an exponential for either softmax: columns (B_i,) logsumexp and weights (B_i,)."""
    along_row = _NONE
    for column in range(numbers.size):
        s = numbers[column]
        probability = exp_of_nonpositive(min(scale * s - log, _NONE))
        other = exp_of_nonpositive(min(scale * s - columns[column], _NONE))
        gradient = scale * (probability * of_row + other * weights[column])
        along = s * gradient
        along_row += along
        along_images[column] += along
        numbers[column] = gradient
    return along_row


@compiled
def _rows(mask, similarities, along_texts, along_images, by_image, logs, scale, lowest, half):
    """Gradients in the place of the similarities; their value. The sums are added to along_images.

    by_image  (4, B_i) of _of_columns
    logs      (rows,) logsumexp of each row
    lowest    the least logsumexp of a column
    half      half of one row's share in the mean over rows
    """
    columns, weights, targets, factors = by_image[0], by_image[1], by_image[2], by_image[3]
    value = 0.0
    for row in range(len(mask)):
        numbers, log = similarities[row], logs[row]
        matches = places(mask[row])
        matching = numbers[matches]
        of_row = half if matches.size else _NONE
        if log - lowest <= _LARGEST_SHIFT:
            of_columns = np.float32(np.exp(log - lowest))
            along_row = _softmaxes(numbers, scale, log, of_row, of_columns, factors, along_images)
        else:
            along_row = _softmaxes_apart(numbers, scale, log, of_row, columns, weights, along_images)
        # A NaN anywhere in a row is one in its sum, of a row without positives too.
        value += _NONE * log
        for place in range(matches.size):
            column, logit = matches[place], scale * matching[place]
            target, other = of_row / np.float32(matches.size), targets[column]
            value -= target * (logit - log) + other * (logit - columns[column])
            change = scale * (target + other)
            numbers[column] -= change
            along_row -= matching[place] * change
            along_images[column] -= matching[place] * change
        along_texts[row] = along_row
    return value
