"""Losses on similarities and a mask of matching pairs: value and gradient at once, without autograd.

    loss(similarities, positives, **parameters, survey=None) -> LossValue

Shape suffixes: ... independent runs, each as if it were alone; B_t captions and B_i images of a batch.

similarities  (..., B_t, B_i) cosines, float32 or float64
positives     bool, of that shape or one that broadcasts to it: True where caption and image match; every other pair
              is a negative. Or the same as 1 and 0 of the similarities' type, which saves some time
parameters    the loss's own: numbers, or tensors (...,) with one for each run

NaN among the similarities of a run makes its value NaN.

Where a matrix is too large, its rows are given in blocks. The values of the blocks then add up to the whole one's, as
do the gradients of learned scalars, and the gradients of the similarities follow one another, if every block is given
the survey of the whole: what the loss has to know of the other blocks. LOSSES holds each loss with the passes that take
it. A pass goes over all blocks, and the passes follow one another:

    loss, passes = LOSSES[name]
    survey = None
    for take in passes:
        for similarities, positives in blocks:
            survey = take(similarities, positives, previous=survey, **parameters)

The similarities have to be the same, to the bit, every time.
"""

from clipret.losses.infonce import InfonceSurvey, infonce_loss, survey_infonce
from clipret.losses.margin import MarginSurvey, margin_loss, survey_margin
from clipret.losses.quantiles import negative_quantile
from clipret.losses.sigmoid import SigmoidSurvey, sigmoid_loss, survey_sigmoid
from clipret.losses.triplet import resurvey_triplet, survey_triplet, triplet_loss
from clipret.losses.triplet_max import HardestSurvey
from clipret.losses.triplet_sum import ViolationsSurvey
from clipret.losses.values import LossValue

LOSSES = {
    "margin": (margin_loss, (survey_margin,)),
    "infonce": (infonce_loss, (survey_infonce,)),
    "triplet": (triplet_loss, (survey_triplet, resurvey_triplet)),
    "sigmoid": (sigmoid_loss, (survey_sigmoid,)),
}

__all__ = [
    "LOSSES",
    "HardestSurvey",
    "InfonceSurvey",
    "LossValue",
    "MarginSurvey",
    "SigmoidSurvey",
    "ViolationsSurvey",
    "infonce_loss",
    "margin_loss",
    "negative_quantile",
    "resurvey_triplet",
    "sigmoid_loss",
    "survey_infonce",
    "survey_margin",
    "survey_sigmoid",
    "survey_triplet",
    "triplet_loss",
]
