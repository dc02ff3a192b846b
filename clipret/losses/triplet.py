"""The triplet loss of VSE++, in its two forms. Shapes are those of clipret.losses."""

from collections.abc import Mapping
from typing import Any

import torch

from clipret.losses import triplet_max, triplet_sum
from clipret.losses.triplet_max import HardestSurvey
from clipret.losses.triplet_sum import ViolationsSurvey
from clipret.losses.values import Loss, LossValue

TripletSurvey = HardestSurvey | ViolationsSurvey
_FORMS = {"max": triplet_max, "sum": triplet_sum}


def triplet_loss(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    margin: float | torch.Tensor,
    violation: str = "max",
    survey: TripletSurvey | None = None,
) -> LossValue:
    """Triplet loss: every positive is to be better by a margin than the negatives of its caption and of its image.

    A positive (t, i) costs, with [x]+ = max(0, x), over the negatives j of caption t and u of image i,
      sum  the sum over j of [m - s_ti + s_tj]+, plus that over u of [m - s_ti + s_ui]+
           (Faghri et al. 2018, equation 5);
      max  [m - s_ti + max s_tj]+ + [m - s_ti + max s_ui]+ (equation 6).
    The loss is the mean over positives. One whose caption or image has no negatives adds 0 for it.

    margin     m in [-1, 1]
    violation  max or sum
    survey     the whole matrix's, where this is a block of its rows

    Where several negatives are the maximum, the gradient is divided equally among them, as that of torch's amax is: a
    block of rows does not know which of them comes first. At a hinge's tip the gradient is 0. Form sum takes time in
    proportion to the largest number of positives that an item has, which it asks the device for.

    The value is at least 0, or 0 without positives. Nothing is learned. Raises ValueError for another violation, and
    for a survey that resurvey_triplet has not finished.
    """
    form = _form(violation)
    if survey is not None and not survey.finished:
        raise ValueError("the survey has seen the rows once; resurvey_triplet has to go over them too")
    return form.loss(similarities, positives, margin=margin, survey=survey)


def survey_triplet(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    previous: TripletSurvey | None = None,
    margin: float | torch.Tensor,
    violation: str = "max",
) -> TripletSurvey:
    """The first pass's survey of a block of rows and of those before it, `previous`: what is in each column."""
    return _form(violation).survey(similarities, positives, previous=previous)


def resurvey_triplet(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    previous: TripletSurvey,
    margin: float | torch.Tensor,
    violation: str = "max",
) -> TripletSurvey:
    """The second pass's: how often the margin is violated there. `previous` of the first block is the first pass's."""
    return _form(violation).resurvey(similarities, positives, previous=previous, margin=margin)


def _form(violation: str):
    if violation not in _FORMS:
        raise ValueError(f"violation is {violation!r}, expected one of {tuple(_FORMS)}")
    return _FORMS[violation]


def _capturable(settings: Mapping[str, Any]) -> bool:
    """Form sum asks for the largest number of positives."""
    return settings["violation"] != "sum"


LOSS = Loss(triplet_loss, passes=(survey_triplet, resurvey_triplet), capturable=_capturable)
