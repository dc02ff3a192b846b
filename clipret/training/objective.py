"""The loss of a batch and its gradient with respect to the embeddings, for all runs of a stack, in blocks if need be.

Shape suffixes: S runs, B_t captions and B_i images of a batch, E embedding width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from clipret.config import Margin, TrainConfig
from clipret.losses import LOSSES, negative_quantile
from clipret.machine.products import Products

# The similarities of as many captions at once as fit here; there are about four matrices of that size at a time.
_BLOCK_BYTES = 256 << 20
# CLIP's own bound of its logit scale (Radford et al. 2021, section 2.5).
_LARGEST_SCALE = 100.0
# Where SigLIP starts (Zhai et al. 2023, section 3.2).
_SIGMOID_SCALE, _SIGMOID_BIAS = 10.0, -10.0

Matching = Callable[[slice], torch.Tensor]


@dataclass(frozen=True)
class Pull:
    """What the loss of a batch does to the embeddings.

    value            (S,) the loss
    texts, images    (S, E, B_t), (S, E, B_i): its gradients
    along_texts, along_images  (S, 1, B_t), (S, 1, B_i): their inner products with the embeddings
    learned          gradients (S,) of the loss's own learned scalars
    """

    value: torch.Tensor
    texts: torch.Tensor
    images: torch.Tensor
    along_texts: torch.Tensor
    along_images: torch.Tensor
    learned: dict[str, torch.Tensor]


def learned_scalars(config: TrainConfig, *, logit_scale: float) -> dict[str, float]:
    """The scalars that a loss learns, where they start: the logarithm of the similarities' scale, and a bias.

    logit_scale  CLIP's own, a logarithm: where infonce starts
    """
    if config.loss == "sigmoid":
        fixed = {} if config.temperature is not None else {"log_scale": math.log(_SIGMOID_SCALE)}
        return {**fixed, "bias": _SIGMOID_BIAS}
    if config.loss == "infonce" and config.temperature is None:
        return {"log_scale": min(logit_scale, math.log(_LARGEST_SCALE))}
    return {}


class Objective:
    """The loss of runs that differ in its numbers only."""

    def __init__(self, configs: list[TrainConfig], *, products: Products, device: str):
        first = configs[0]
        self._products, self._device = products, device
        self._loss, self._passes = LOSSES[first.loss]
        self._margins = [Margin.parse(config.margin) for config in configs]
        self._fixed = {}
        if first.loss == "margin":
            self._fixed["reduction"] = first.reduction
        if first.loss == "triplet":
            self._fixed["violation"] = first.violation
        self._temperatures = None
        if first.temperature is not None:
            scales = [1 / config.temperature for config in configs]
            self._temperatures = torch.tensor(scales, device=device)
        self._surveys_masks, self._kept_mask, self._kept_survey = first.loss == "margin", None, None
        self._takes_margin = first.loss in ("margin", "triplet")

    def margins(self, progress: list[float]) -> torch.Tensor | None:
        """(S,) of the step at which each run has done so much of its training; None: they come from the batch."""
        if not self._takes_margin or self._margins[0].quantile is not None:
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
        margins   of this step, as margins() gave them
        learned   the scalars' values (S,)
        """
        settings = {**self._fixed, **self._scalars(learned)}
        rows, count = texts.transpose(1, 2).contiguous(), texts.shape[2]
        block = max(1, _BLOCK_BYTES // (4 * len(texts) * images.shape[2]))
        spans = [slice(start, min(start + block, count)) for start in range(0, count, block)]
        whole = len(spans) == 1
        survey, parts = None, []
        if self._takes_margin and margins is None:
            margins = self._quantiles(self._products(rows[:, spans[0]], images), matching(spans[0]))
        if margins is not None:
            settings["margin"] = margins
        for take in () if whole else self._passes:
            for span in spans:
                similarities = self._products(rows[:, span], images)
                survey = take(similarities, matching(span), previous=survey, **settings)
        for span in spans:
            similarities = self._products(rows[:, span], images)
            mask = matching(span)
            if whole:
                survey = self._kept(mask, similarities)
            found = self._loss(similarities, mask, survey=survey, **settings)
            weighted = similarities.mul_(found.gradient)
            parts.append(
                Pull(
                    found.value,
                    self._products(images, found.gradient.transpose(1, 2)),
                    self._products(texts[:, :, span], found.gradient),
                    weighted.sum(2)[:, None],
                    weighted.sum(1)[:, None],
                    self._chain(found.learned, learned),
                )
            )
        return parts[0] if whole else _joined(parts)

    def _kept(self, mask: torch.Tensor, similarities: torch.Tensor):
        """The margin loss's survey, which depends on the mask alone and is kept for one that comes again; else None."""
        if not self._surveys_masks:
            return None
        if self._kept_mask is not mask:
            self._kept_mask, self._kept_survey = mask, self._passes[0](similarities, mask, **self._fixed)
        return self._kept_survey

    def _scalars(self, learned: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {}
        if self._temperatures is not None:
            found["scale"] = self._temperatures
        elif "log_scale" in learned:
            found["scale"] = learned["log_scale"].exp()
        if "bias" in learned:
            found["bias"] = learned["bias"]
        return found

    def _chain(self, gradients: dict[str, torch.Tensor], learned: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """From the scale, which the loss knows, to its logarithm, which is learned."""
        found = {name: gradients[name] for name in learned if name in gradients}
        if "log_scale" in learned:
            found["log_scale"] = gradients["scale"] * learned["log_scale"].exp()
        return found

    def _quantiles(self, similarities: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        quantiles = torch.tensor([margin.quantile for margin in self._margins], device=self._device)
        return negative_quantile(similarities, positives, quantile=quantiles)


def bound_scalars(learned: dict[str, torch.Tensor]) -> None:
    """Keep the scale below CLIP's bound, in place, after a step."""
    if "log_scale" in learned:
        learned["log_scale"].clamp_(max=math.log(_LARGEST_SCALE))


def _joined(parts: list[Pull]) -> Pull:
    return Pull(
        value=sum(part.value for part in parts),
        texts=torch.cat([part.texts for part in parts], dim=2),
        images=sum(part.images for part in parts),
        along_texts=torch.cat([part.along_texts for part in parts], dim=2),
        along_images=sum(part.along_images for part in parts),
        learned={name: sum(part.learned[name] for part in parts) for name in parts[0].learned},
    )
