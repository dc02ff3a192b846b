"""A gated linear unit beside CLIP's own projections.

Shape suffixes are those of heads.base, and H the width of the unit.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from clipret.heads.added import AddedHead, second_width
from clipret.heads.base import Gradients, Shapes, Tensors, Tower, uniform
from clipret.heads.linear import Projection
from clipret.machine.products import Products

_PARTS = ("gate", "value", "out")


class GatedHead(AddedHead):
    """CLIP's own projections, made trainable, and a gated linear unit beside them, on either side or both.

        embedding = normalize(x W + b + (silu(x gate) * (x value)) out)

    gate and value are (D, H), out (H, E), without biases. While out is 0 the head computes CLIP's embeddings. The gated
    unit is that of SAIL (Zhang et al. 2025), which trains it alone, with silu (Shazeer 2020) in place of its relu6.
    """

    kind = "gated"
    parts, silent = _PARTS, ("out",)

    @classmethod
    def draw(
        cls, clip: Tensors, *, side: str, settings: Mapping[str, Any], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """As of an AddedHead: gate and value uniform within D^-0.5 either way, out within H^-0.5."""
        (depth, width), inner = clip[f"{side}_weight"].shape, settings["hidden"]
        shapes = {"gate": (depth, inner), "value": (depth, inner), "out": (inner, width)}
        return {part: uniform(shape, bound=shape[0] ** -0.5, generator=generator) for part, shape in shapes.items()}

    @classmethod
    def part_shapes(cls, depth: int, width: int, *, actual: Callable[[str], tuple[int, ...]]) -> Shapes:
        """As of an AddedHead; the unit is as wide as that of the file's own `gate`."""
        inner = second_width(actual("gate"))
        return {"gate": (depth, inner), "value": (depth, inner), "out": (inner, width)}

    @classmethod
    def added_tower(cls, tensors: Tensors, *, side: str, settings: Mapping[str, Any], products: Products) -> Tower:
        """As of an AddedHead."""
        return GatedUnit(tensors, side=side, products=products)

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Head."""
        return self._embed(features, side="image")

    def embed_texts(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Head."""
        return self._embed(features, side="text")

    def _embed(self, features: torch.Tensor, *, side: str) -> torch.Tensor:
        weight, bias, *unit = (getattr(self, f"{side}_{part}") for part in ("weight", "bias", *_PARTS))
        features = features.to(weight.dtype)
        projected = features @ weight
        if bias is not None:
            projected = projected + bias
        if unit[0] is not None:
            gate, value, out = unit
            projected = projected + (functional.silu(features @ gate) * (features @ value)) @ out
        return functional.normalize(projected, dim=-1)


class GatedUnit(Projection):
    """normalize(W x + b + out (silu(gate x) * (value x))): the Tower of a side with a gated unit."""

    def __init__(self, tensors: Tensors, *, side: str, products: Products):
        """tensors: the projection's, SIDE_gate and SIDE_value (S, H, D), SIDE_out (S, E, H)."""
        super().__init__(tensors, side=side, learns=True, products=products)
        self._gate, self._value, self._out = (tensors[f"{side}_{part}"] for part in _PARTS)

    def projected(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Projection, with the unit."""
        columns = features.transpose(1, 2)
        before = self._products(self._gate, columns)
        self._share = torch.sigmoid(before)
        self._opened = before.mul_(self._share)
        self._values = self._products(self._value, columns)
        self._hidden = self._opened * self._values
        return super().projected(features).add_(self._products(self._out, self._hidden))

    def gradients(self, gradient: torch.Tensor) -> Gradients:
        """As of a Projection, and those of the unit."""
        separately, features = self._products.separately, self._features
        gradients = super().gradients(gradient)
        gradients[f"{self._side}_out"] = separately(gradient, self._hidden.transpose(1, 2))
        hidden = self._products(self._out.transpose(1, 2), gradient)
        gradients[f"{self._side}_value"] = separately(hidden * self._opened, features)
        # silu'(a) = s (1 + a (1 - s)), s the sigmoid of a.
        slope = torch.addcmul(self._share, self._opened, 1 - self._share)
        gradients[f"{self._side}_gate"] = separately(hidden.mul_(self._values).mul_(slope), features)
        return gradients


HEAD = GatedHead
