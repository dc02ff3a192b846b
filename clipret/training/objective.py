"""The loss of a batch and its gradient with respect to the embeddings, for all runs of a stack.

Shape suffixes: S runs, B_t captions and B_i images of a batch, E embedding width.
"""

import math
from dataclasses import replace
from typing import Any

import torch

from clipret.config import Margin, TrainConfig
from clipret.losses import LOSSES, load_loss
from clipret.losses.quantiles import negative_quantile
from clipret.losses.values import LARGEST_LOG_SCALE, LossValue
from clipret.machine.products import Products
from clipret.training.blocks import Blocks, Matching, captions_at_once
from clipret.training.pull import Pull

# Settings of a loss that are not just passed on to it; LossRow describes them.
_MARGIN, _TEMPERATURE = "margin", "temperature"
# Prefix of a scalar that is the logarithm of a parameter.
_LOG = "log_"


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

        matching  rows of captions -> (S or 1, rows, B_i) bool, or float32 of 1 and 0
        margins   of this step, as returned by margins()
        learned   the scalars' values (S,)
        """
        most, count = captions_at_once(texts, images), texts.shape[2]
        if self._margins is not None and margins is None:
            few = slice(0, min(most, count))
            margins = self._quantiles(self._products(texts.transpose(1, 2).contiguous()[:, few], images), matching(few))
        parameters = self._parameters(margins, learned)
        if most < count:
            settings = {"matching": matching, "loss": self._loss, "parameters": parameters, "products": self._products}
            pulled = Blocks(texts, images, **settings).pull()
        else:
            pulled = self._whole(texts, images, mask=matching(slice(0, count)), parameters=parameters)
        return replace(pulled, learned=_by_scalar(pulled.learned, learned))

    def _whole(
        self, texts: torch.Tensor, images: torch.Tensor, *, mask: torch.Tensor, parameters: dict[str, Any]
    ) -> Pull:
        """Of all similarities at once; gradients of the loss's parameters are in `learned`."""
        similarities = self._products(texts.transpose(1, 2).contiguous(), images)
        survey = self._kept(mask, similarities)
        value, gradient, learned = self._loss.function(similarities, mask, survey=survey, **parameters)
        weighted = similarities.mul_(gradient)
        return Pull.of(
            gradient,
            value=value,
            along=(weighted.sum(2), weighted.sum(1)),
            embeddings=(texts.contiguous(), images),
            learned=learned,
            products=self._products,
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
