"""A gated linear unit beside CLIP's own projections.

Shape suffixes are those of heads.base, and H the width of the unit.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from clipret.heads.base import (
    PROJECTION_NAMES,
    SIDES,
    Gradients,
    Head,
    Shapes,
    Tensors,
    Tower,
    sides_in,
    sides_word,
    uniform,
)
from clipret.heads.linear import LinearHead, Projection
from clipret.machine.products import Products

_PARTS = ("gate", "value", "out")


class GatedHead(LinearHead):
    """CLIP's own projections, made trainable, and a gated linear unit beside them, on either side or both.

        embedding = normalize(x W + b + (silu(x gate) * (x value)) out)

    gate and value are (D, H), out (H, E), without biases. While out is 0 the head computes CLIP's embeddings. The gated
    unit is that of SAIL (Zhang et al. 2025), which trains it alone, with silu (Shazeer 2020) in place of its relu6.
    """

    kind = "gated"
    names = (*PROJECTION_NAMES, *(f"{side}_{part}" for side in SIDES for part in _PARTS))

    @classmethod
    def start(
        cls,
        clip: Tensors,
        *,
        init: str,
        sides: tuple[str, ...],
        settings: Mapping[str, Any],
        generator: torch.Generator,
    ) -> Tensors:
        """As of a Head: gate and value uniform within D^-0.5 either way, out 0; random: the projection as of a linear
        head, out uniform within H^-0.5 either way."""
        width, tensors = settings["hidden"], {}
        for side in SIDES:
            depth, embedding = clip[f"{side}_weight"].shape
            gate, value, out = (
                uniform(shape, bound=shape[0] ** -0.5, generator=generator)
                for shape in ((depth, width), (depth, width), (width, embedding))
            )
            if side in sides:
                out = out if init == "random" else torch.zeros_like(out)
                tensors |= {f"{side}_gate": gate, f"{side}_value": value, f"{side}_out": out}
        return super().start(clip, init=init, sides=sides, settings=settings, generator=generator) | tensors

    @classmethod
    def learning_names(cls, side: str, *, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """As of a Head."""
        return *super().learning_names(side, settings=settings), *(f"{side}_{part}" for part in _PARTS)

    @classmethod
    def tower(
        cls, tensors: Tensors, *, side: str, learns: bool, settings: Mapping[str, Any], products: Products
    ) -> Tower:
        """As of a Head."""
        if not learns:
            return Projection(tensors, side=side, learns=False, products=products)
        return GatedUnit(tensors, side=side, products=products)

    @classmethod
    def shapes(cls, projections: Mapping[str, np.ndarray], *, actual: Shapes, metadata: Mapping[str, str]) -> Shapes:
        """As of a Head; the unit is as wide as that of the file's own `gate`."""
        shapes = super().shapes(projections, actual=actual, metadata=metadata)
        for side in sides_in(metadata):
            depth, embedding = shapes[f"{side}_weight"]
            gate = actual.get(f"{side}_gate", ())
            width = gate[1] if len(gate) == 2 else 1
            inner = (depth, width)
            shapes |= {f"{side}_gate": inner, f"{side}_value": inner, f"{side}_out": (width, embedding)}
        return shapes

    @property
    def metadata(self) -> dict[str, str]:
        """As of a Head: sides."""
        return {"sides": sides_word(side for side in SIDES if getattr(self, f"{side}_out") is not None)}

    def untrained(self, projections: Mapping[str, np.ndarray]) -> Tensors:
        """As of a Head: `gate` and `value` are the head's own, and `out` 0."""
        added = {name: tensor for name, tensor in self.tensors.items() if name not in PROJECTION_NAMES}
        start = {name: torch.zeros_like(tensor) if name.endswith("_out") else tensor for name, tensor in added.items()}
        return super().untrained(projections) | start

    def layers(self, side: str) -> None:
        """As of a Head: no stack of plain layers multiplies two of them."""
        return

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


HEAD: type[Head] = GatedHead
