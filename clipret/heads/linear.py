"""CLIP's own projections made trainable. Shape suffixes are those of heads.base."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from clipret.heads.base import (
    SIDES,
    Dense,
    Gradients,
    Head,
    Normalise,
    Shapes,
    Start,
    Tensors,
    normalise_columns,
    through_norm,
)
from clipret.machine.products import Products


class LinearHead(Head):
    """CLIP's own final projections, image and text, made trainable: normalize(x W + b).

    Started from a cache's projections it computes exactly CLIP's embeddings.
    """

    kind = "linear"

    @classmethod
    def start(cls, clip: Tensors, wanted: Start) -> Tensors:
        """As of a Head. random: weights normal with standard deviation D^-0.5, as CLIP's own began; bias 0.

        With the setting `bias`, a side that learns has a bias of 0 where CLIP has none.
        """
        if wanted.settings.get("bias", False):
            width = clip["text_weight"].shape[1]
            clip = {f"{side}_bias": torch.zeros(width) for side in wanted.sides} | clip
        if wanted.init == "clip":
            return clip
        # Both sides are drawn whichever learns, so that a side starts the same with or without the other.
        drawn = {}
        for side in SIDES:
            weight = clip[f"{side}_weight"]
            drawn[f"{side}_weight"] = torch.randn(weight.shape, generator=wanted.generator) * weight.shape[0] ** -0.5
            if f"{side}_bias" in clip:
                drawn[f"{side}_bias"] = torch.zeros_like(clip[f"{side}_bias"])
        learning = {name for name in clip if name.partition("_")[0] in wanted.sides}
        return {name: drawn[name] if name in learning else tensor for name, tensor in clip.items()}

    @classmethod
    def shapes(cls, projections: Mapping[str, np.ndarray], *, actual: Shapes, metadata: Mapping[str, str]) -> Shapes:
        """As of a Head; the embedding may be of another width than the encoder's, and biases may have been added."""
        shapes = dict(super().shapes(projections, actual=actual, metadata=metadata))
        weight = actual.get("image_weight", ())
        width = weight[1] if len(weight) == 2 else shapes["image_weight"][1]
        for side in SIDES:
            shapes[f"{side}_weight"] = (shapes[f"{side}_weight"][0], width)
            if f"{side}_bias" in {*shapes, *actual}:
                shapes[f"{side}_bias"] = (width,)
        return shapes

    @classmethod
    def learning_names(cls, side: str, *, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """As of a Head."""
        return f"{side}_weight", f"{side}_bias"

    @classmethod
    def tower(
        cls, tensors: Tensors, *, side: str, learns: bool, settings: Mapping[str, Any], products: Products
    ) -> "Projection":
        """As of a Head."""
        return Projection(tensors, side=side, learns=learns, products=products)

    def layers(self, side: str) -> tuple[Dense | Normalise, ...]:
        """As of a Head."""
        tensors = self.tensors
        return Dense(tensors[f"{side}_weight"], tensors.get(f"{side}_bias")), Normalise()

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Head."""
        return _project(features, self.image_weight, bias=self.image_bias)

    def embed_texts(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Head."""
        return _project(features, self.text_weight, bias=self.text_bias)


class Projection:
    """normalize(W x + b): the Tower of a linear head, and what an adapter stands behind."""

    def __init__(self, tensors: Tensors, *, side: str, learns: bool, products: Products):
        """tensors: SIDE_weight (S, E, D) and perhaps SIDE_bias (S, E), updated in place by the optimiser."""
        self._weight, self._bias = tensors[f"{side}_weight"], tensors.get(f"{side}_bias")
        self._side, self._learns, self._products = side, learns, products

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Tower."""
        self._features = features
        self._embeddings, self._norms = normalise_columns(self.projected(features))
        return self._embeddings

    def projected(self, features: torch.Tensor) -> torch.Tensor:
        """Features (S, B, D) -> W x + b (S, E, B)."""
        projected = self._products(self._weight, features.transpose(1, 2))
        if self._bias is not None:
            projected += self._bias[:, :, None]
        return projected

    def backward(self, gradient: torch.Tensor, *, along: torch.Tensor) -> Gradients:
        """As of a Tower."""
        return self.gradients(self.through_norm(gradient, along=along)) if self._learns else {}

    def through_norm(self, gradient: torch.Tensor, *, along: torch.Tensor) -> torch.Tensor:
        """The gradient of W x + b, from that of the embeddings of the last forward, in place."""
        return through_norm(gradient, self._embeddings, along=along, norms=self._norms)

    def gradients(self, gradient: torch.Tensor) -> Gradients:
        """Gradients of weight and bias, from that of W x + b."""
        gradients = {f"{self._side}_weight": self._products.separately(gradient, self._features)}
        if self._bias is not None:
            gradients[f"{self._side}_bias"] = gradient.sum(2).unbind()
        return gradients


def _project(features: torch.Tensor, weight: torch.Tensor, *, bias: torch.Tensor | None) -> torch.Tensor:
    projected = features.to(weight.dtype) @ weight
    return functional.normalize(projected if bias is None else projected + bias, dim=-1)


HEAD = LinearHead
