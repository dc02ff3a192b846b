"""The triplet loss with all negatives of each item. clipret.losses.triplet has the definition.

The positives of an item stand in slots, as many as the item with the most of them has, and a slot at a time is held
against all negatives. Shape suffix: K slots.
"""

from typing import NamedTuple

import torch

from clipret.losses.values import APART, LossValue, numbers, spread, total


class ViolationsSurvey(NamedTuple):
    """What the loss has to know of the whole matrix's columns.

    pairs     (...,) positives of the matrix
    slots     (..., K, B_i) similarities of the column's positives in rising order; about APART in slots left over
    violated  (..., K, B_i) how many of the column's negatives violate the margin with each; None: no second pass yet
    """

    pairs: torch.Tensor
    slots: torch.Tensor
    violated: torch.Tensor | None = None

    @property
    def finished(self) -> bool:
        """Whether the second pass has begun."""
        return self.violated is not None


def loss(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    margin: float | torch.Tensor,
    survey: ViolationsSurvey | None,
) -> LossValue:
    """The loss of a whole matrix, or of a block of one that a survey is given of."""
    mask = numbers(positives, similarities)
    negatives, margin = similarities.sub(mask, alpha=APART), spread(margin, similarities)
    gradient, values = torch.zeros_like(similarities), []
    for dim in (-1, -2):
        slots, places = _slots(similarities, mask, dim=dim)
        if survey is None or dim == -1:
            value, violated = _compare(negatives, slots, dim=dim, margin=margin, gradient=gradient)
        else:
            value, _ = _compare(negatives, survey.slots, dim=dim, margin=margin, gradient=gradient)
            violated = _look_up(slots, survey)
        values.append(value)
        gradient.scatter_add_(dim, places, violated.neg())
    pairs = (total(mask) if survey is None else survey.pairs).clamp_min(1)
    return LossValue((values[0] + values[1]) / pairs, gradient.div_(pairs[..., None, None]), {})


def survey(
    similarities: torch.Tensor, positives: torch.Tensor, *, previous: ViolationsSurvey | None
) -> ViolationsSurvey:
    """The first pass: each column's positives."""
    mask = numbers(positives, similarities)
    pairs, (slots, _) = total(mask), _slots(similarities, mask, dim=-2)
    if previous is None:
        return ViolationsSurvey(pairs, slots)
    slots = torch.cat([previous.slots, slots], dim=-2).sort(-2).values
    used = max(1, int((slots < APART / 2).sum(-2).amax()))
    return ViolationsSurvey(previous.pairs + pairs, slots[..., :used, :])


def resurvey(
    similarities: torch.Tensor,
    positives: torch.Tensor,
    *,
    previous: ViolationsSurvey,
    margin: float | torch.Tensor,
) -> ViolationsSurvey:
    """The second pass: how many negatives violate the margin with each of them."""
    negatives = similarities.sub(numbers(positives, similarities), alpha=APART)
    _, violated = _compare(negatives, previous.slots, dim=-2, margin=spread(margin, similarities))
    return previous._replace(violated=violated if previous.violated is None else previous.violated + violated)


def _slots(similarities: torch.Tensor, mask: torch.Tensor, *, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The positives along a dimension, which becomes K, in rising order, and their places there.

    There is one slot at least, so that NaN meets one; those left over hold about APART and some negative's place.
    """
    count = max(1, int(mask.sum(dim).amax()))
    slots, places = similarities.add(1 - mask, alpha=APART).topk(count, dim=dim, largest=False)
    return slots, places


def _compare(
    negatives: torch.Tensor,
    slots: torch.Tensor,
    *,
    dim: int,
    margin: torch.Tensor,
    gradient: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of all hinges (...,), and how many negatives violate the margin with each slot, in the slots' shape.

    Adds the hinges' gradient by the negatives to `gradient`.
    """
    value, violated = 0, []
    for slot in slots.split(1, dim=dim):
        hinges = (negatives + (margin - slot)).relu_()
        value = value + total(hinges)
        active = hinges.sign_()
        violated.append(active.sum(dim, keepdim=True))
        if gradient is not None:
            gradient += active
    return value, torch.cat(violated, dim=dim)


def _look_up(slots: torch.Tensor, survey: ViolationsSurvey) -> torch.Tensor:
    """The survey's count for each of a block's own slots; those with equal similarities have equal counts."""
    same = slots[..., :, None, :] == survey.slots[..., None, :, :]
    return (same * survey.violated[..., None, :, :]).amax(-2)
