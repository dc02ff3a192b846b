"""The loss of a batch and its gradient with respect to the embeddings, for all runs of a stack, in blocks if large.

Shape suffixes: S runs, B_t captions and B_i images of a batch, E embedding width.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from clipret.config import Margin, TrainConfig
from clipret.losses import LOSSES, load_loss
from clipret.losses.quantiles import negative_quantile
from clipret.losses.values import LARGEST_LOG_SCALE, LossValue
from clipret.machine.products import Products

# Similarities of a batch that take more than this are computed in blocks of rows, ...
_BLOCK_BYTES = 256 << 20
# ... each of as many captions as fit in this: a block that stays in the processor's cache goes through the loss's dozen
# operations several times as fast. About four matrices of that size exist at a time.
_PIECE_BYTES = 24 << 20
# Settings of a loss that are not just passed on to it; LossRow describes them.
_MARGIN, _TEMPERATURE = "margin", "temperature"
# Prefix of a scalar that is the logarithm of a parameter.
_LOG = "log_"

Matching = Callable[[slice], torch.Tensor]


@dataclass(frozen=True)
class Pull:
    """The loss of a batch and its gradients.

    value            (S,) the loss
    texts, images    (S, E, B_t), (S, E, B_i): gradients with respect to the embeddings
    along_texts, along_images  (S, 1, B_t), (S, 1, B_i): inner products of those gradients with the embeddings
    learned          gradients (S,) with respect to the loss's learned scalars
    """

    value: torch.Tensor
    texts: torch.Tensor
    images: torch.Tensor
    along_texts: torch.Tensor
    along_images: torch.Tensor
    learned: dict[str, torch.Tensor]

    def with_side(self, side: str, *, value: torch.Tensor, gradient: torch.Tensor, along: torch.Tensor) -> "Pull":
        """With another term, of the embeddings of one side, added to it."""
        name = "images" if side == "image" else "texts"
        sums = {name: getattr(self, name) + gradient, f"along_{name}": getattr(self, f"along_{name}") + along}
        return replace(self, value=self.value + value, **sums)


def learned_scalars(config: TrainConfig, *, logit_scale: float) -> dict[str, float]:
    """The initial values of the scalars that a loss learns: the logarithm of the similarities' scale, and a bias.

    logit_scale  CLIP's own, a logarithm: the initial value for infonce
    """
    scalars = load_loss(config.loss).scalars(logit_scale)
    return {name: value for name, value in scalars.items() if name not in fixed_scalars(config)}


def fixed_scalars(config: TrainConfig) -> dict[str, float]:
    """The scalars of a loss that a temperature fixes instead: none of a loss of the user's own."""
    takes_one = config.loss in LOSSES and _TEMPERATURE in LOSSES[config.loss].settings
    return {"log_scale": -math.log(config.temperature)} if takes_one and config.temperature is not None else {}


class Objective:
    """The loss of runs that differ only in the numeric settings of the loss."""

    def __init__(self, configs: list[TrainConfig], *, products: Products, device: str):
        first = configs[0]
        self._products, self._device = products, device
        self._loss, settings = load_loss(first.loss), LOSSES[first.loss].settings
        self._passed_on = {name: getattr(first, name) for name in settings if name not in (_MARGIN, _TEMPERATURE)}
        self._margins = [Margin.parse(config.margin) for config in configs] if _MARGIN in settings else None
        self._scales = None
        if _TEMPERATURE in settings and first.temperature is not None:
            scales = [1 / config.temperature for config in configs]
            self._scales = torch.tensor(scales, device=device)
        self._kept_mask, self._kept_survey = None, None

    def margins(self, progress: list[float]) -> torch.Tensor | None:
        """(S,) the margins of a step; None: they are computed from the batch.

        progress  the fraction of its training that each run has done
        """
        if self._margins is None or self._margins[0].quantile is not None:
            return None
        values = [margin.at(done) for margin, done in zip(self._margins, progress, strict=True)]
        return torch.tensor(values, device=self._device)

    def pull(
        self,
        texts: torch.Tensor,
        images: torch.Tensor,
        *,
        matching: Matching,
        margins: torch.Tensor | None,
        learned: dict[str, torch.Tensor],
    ) -> Pull:
        """The loss of embeddings texts (S, E, B_t) and images (S, E, B_i).

        matching  rows of captions -> (S or 1, rows, B_i) bool
        margins   of this step, as returned by margins()
        learned   the scalars' values (S,)
        """
        rows, count = texts.transpose(1, 2).contiguous(), texts.shape[2]
        row_bytes = 4 * len(texts) * images.shape[2]
        most = max(1, _BLOCK_BYTES // row_bytes)
        whole = most >= count
        block = count if whole else max(1, min(most, _PIECE_BYTES // row_bytes))
        spans = [slice(start, min(start + block, count)) for start in range(0, count, block)]
        survey = None
        if self._margins is not None and margins is None:
            margins = self._quantiles(self._products(rows[:, :most], images), matching(slice(0, min(most, count))))
        parameters = self._parameters(margins, learned)
        for take in () if whole else self._loss.passes:
            for span in spans:
                if self._loss.survey_of_mask:
                    # Only the shape counts: the product is not worth its time.
                    shape = len(texts), span.stop - span.start, images.shape[2]
                    similarities = images.new_zeros(1).expand(shape)
                else:
                    similarities = self._products(rows[:, span], images)
                survey = take(similarities, matching(span), previous=survey, **parameters)
        parts = (
            self._part(
                self._products(rows[:, span], images),
                matching(span),
                survey=survey,
                parameters=parameters,
                whole=whole,
                embeddings=(texts[:, :, span].contiguous(), images),
                learned=learned,
            )
            for span in spans
        )
        return next(parts) if whole else _joined(parts)

    def _part(
        self,
        similarities: torch.Tensor,
        mask: torch.Tensor,
        *,
        survey: Any,
        parameters: dict[str, Any],
        whole: bool,
        embeddings: tuple[torch.Tensor, torch.Tensor],
        learned: dict[str, torch.Tensor],
    ) -> Pull:
        """The share of a block of rows, or of the whole matrix, in the loss; similarities are overwritten."""
        texts, images = embeddings
        if whole:
            survey = self._kept(mask, similarities)
        value, gradient, by_parameter = self._loss.function(similarities, mask, survey=survey, **parameters)
        weighted = similarities.mul_(gradient)
        return Pull(
            value,
            self._products(images, gradient.transpose(1, 2)),
            self._products(texts, gradient),
            weighted.sum(2)[:, None],
            weighted.sum(1)[:, None],
            _by_scalar(by_parameter, learned),
        )

    def value(
        self,
        similarities: torch.Tensor,
        mask: torch.Tensor,
        *,
        margins: torch.Tensor | None,
        learned: dict[str, torch.Tensor],
    ) -> LossValue:
        """The loss of similarities and a mask (S, B_t, B_i), with its gradients by similarities and learned scalars."""
        if self._margins is not None and margins is None:
            margins = self._quantiles(similarities, mask)
        loss = self._loss.function(similarities, mask, **self._parameters(margins, learned))
        return loss._replace(learned=_by_scalar(loss.learned, learned))

    def _parameters(self, margins: torch.Tensor | None, learned: dict[str, torch.Tensor]) -> dict[str, Any]:
        moving = {} if margins is None else {"margin": margins}
        return self._passed_on | self._scalars(learned) | moving

    def _kept(self, mask: torch.Tensor, similarities: torch.Tensor):
        """The survey of a mask, cached while the mask stays the same; None if the survey needs the similarities."""
        if not self._loss.survey_of_mask:
            return None
        if self._kept_mask is not mask:
            self._kept_mask, self._kept_survey = mask, self._loss.passes[0](similarities, mask, **self._passed_on)
        return self._kept_survey

    def _scalars(self, learned: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parameters of the loss that are learned, or fixed by a temperature."""
        fixed = {} if self._scales is None else {"scale": self._scales}
        return fixed | {
            name.removeprefix(_LOG): values.exp() if name.startswith(_LOG) else values
            for name, values in learned.items()
        }

    def _quantiles(self, similarities: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        quantiles = torch.tensor([margin.quantile for margin in self._margins], device=self._device)
        return negative_quantile(similarities, positives, quantile=quantiles)


def _by_scalar(by_parameter: dict[str, torch.Tensor], learned: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert gradients by the loss's parameters to gradients by the scalars, some of which are logarithms."""
    return {
        name: by_parameter[name.removeprefix(_LOG)] * values.exp() if name.startswith(_LOG) else by_parameter[name]
        for name, values in sorted(learned.items())
    }


def bound_scalars(learned: dict[str, torch.Tensor]) -> None:
    """Clamp the scale to CLIP's bound, in place, after a step."""
    if "log_scale" in learned:
        learned["log_scale"].clamp_(max=LARGEST_LOG_SCALE)


def _joined(parts: Iterator[Pull]) -> Pull:
    """Of blocks of rows, one after the other: no two blocks' gradients of the images exist for long."""
    first = next(parts)
    value, images, along_images, learned = first.value, first.images, first.along_images, dict(first.learned)
    texts, along_texts = [first.texts], [first.along_texts]
    for part in parts:
        value = value + part.value
        images += part.images
        along_images += part.along_images
        learned = {name: values + part.learned[name] for name, values in learned.items()}
        texts.append(part.texts)
        along_texts.append(part.along_texts)
    return Pull(value, torch.cat(texts, dim=2), images, torch.cat(along_texts, dim=2), along_images, learned)
