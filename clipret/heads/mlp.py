"""Residual blocks before CLIP's own projections.

Shape suffixes are those of heads.base, and H the width inside a block.
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

MOST_BLOCKS = 8
_PARTS = ("up", "shift", "down")
# As torch.nn.LayerNorm has it.
_EPSILON = 1e-5


class MLPHead(LinearHead):
    """Residual blocks before CLIP's own projections, all of it trainable, on either side or both.

        x <- x + silu(norm(x) up + shift) down        for each block, norm a layer norm without parameters
        embedding = normalize(x W + b)

    up is (D, H), shift (H,), down (H, D). While every down is 0 the head computes CLIP's embeddings. Blocks of this
    kind are FuseMix's (Vouitsis et al. 2024).
    """

    kind = "mlp"
    names = (
        *PROJECTION_NAMES,
        *(f"{side}_{part}_{block}" for side in SIDES for block in range(MOST_BLOCKS) for part in _PARTS),
    )

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
        """As of a Head: up uniform within D^-0.5 either way, shift and down 0; random: the projection as of a linear
        head, down uniform within H^-0.5 either way."""
        width, tensors = settings["hidden"], {}
        for side in SIDES:
            depth = len(clip[f"{side}_weight"])
            for block in range(settings["blocks"]):
                up = uniform((depth, width), bound=depth**-0.5, generator=generator)
                down = uniform((width, depth), bound=width**-0.5, generator=generator)
                if side in sides:
                    down = down if init == "random" else torch.zeros_like(down)
                    values = {"up": up, "shift": torch.zeros(width), "down": down}
                    tensors |= {f"{side}_{part}_{block}": values[part] for part in _PARTS}
        return super().start(clip, init=init, sides=sides, settings=settings, generator=generator) | tensors

    @classmethod
    def learning_names(cls, side: str, *, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """As of a Head."""
        parts = (f"{side}_{part}_{block}" for block in range(MOST_BLOCKS) for part in _PARTS)
        return *super().learning_names(side, settings=settings), *parts

    @classmethod
    def tower(
        cls, tensors: Tensors, *, side: str, learns: bool, settings: Mapping[str, Any], products: Products
    ) -> Tower:
        """As of a Head."""
        if not learns:
            return Projection(tensors, side=side, learns=False, products=products)
        return Blocks(tensors, side=side, products=products)

    @classmethod
    def shapes(cls, projections: Mapping[str, np.ndarray], *, actual: Shapes, metadata: Mapping[str, str]) -> Shapes:
        """As of a Head; there are as many blocks, as wide, as in the file."""
        shapes = super().shapes(projections, actual=actual, metadata=metadata)
        for side in sides_in(metadata):
            depth, count = shapes[f"{side}_weight"][0], max(1, _count(actual, side=side))
            first = actual.get(f"{side}_up_0", ())
            width = first[1] if len(first) == 2 else 1
            for block in range(count):
                parts = {"up": (depth, width), "shift": (width,), "down": (width, depth)}
                shapes |= {f"{side}_{part}_{block}": parts[part] for part in _PARTS}
        return shapes

    @property
    def metadata(self) -> dict[str, str]:
        """As of a Head: sides."""
        return {"sides": sides_word(side for side in SIDES if getattr(self, f"{side}_up_0") is not None)}

    def untrained(self, projections: Mapping[str, np.ndarray]) -> Tensors:
        """As of a Head: `up` and `shift` are the head's own, and every `down` 0."""
        added = {name: tensor for name, tensor in self.tensors.items() if name not in PROJECTION_NAMES}
        start = {name: torch.zeros_like(tensor) if "_down_" in name else tensor for name, tensor in added.items()}
        return super().untrained(projections) | start

    def layers(self, side: str) -> None:
        """As of a Head: other libraries have no layer norm between two plain layers."""

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Head."""
        return super().embed_images(self._refined(features, side="image"))

    def embed_texts(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Head."""
        return super().embed_texts(self._refined(features, side="text"))

    def _refined(self, features: torch.Tensor, *, side: str) -> torch.Tensor:
        x = features.to(getattr(self, f"{side}_weight").dtype)
        for block in range(MOST_BLOCKS):
            up, shift, down = (getattr(self, f"{side}_{part}_{block}") for part in _PARTS)
            if up is None:
                break
            normed = functional.layer_norm(x, x.shape[-1:], eps=_EPSILON)
            x = x + functional.silu(normed @ up + shift) @ down
        return x


class Blocks:
    """normalize(W x + b) of x refined by residual blocks: the Tower of a side with blocks."""

    def __init__(self, tensors: Tensors, *, side: str, products: Products):
        """tensors: the projection's, and of each block up (S, H, D), shift (S, H) and down (S, D, H)."""
        self._tensors, self._side, self._products = tensors, side, products
        self._projection = Projection(tensors, side=side, learns=True, products=products)
        self._count = _count(tensors, side=side)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Tower."""
        x, self._kept = features.transpose(1, 2), []
        for block in range(self._count):
            up, shift, down = (self._tensors[f"{self._side}_{part}_{block}"] for part in _PARTS)
            variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
            scale = (variance + _EPSILON).rsqrt_()
            normed = (x - mean).mul_(scale)
            before = self._products(up, normed) + shift[:, :, None]
            share = torch.sigmoid(before)
            hidden = before * share
            x = x + self._products(down, hidden)
            self._kept.append((normed, scale, share, hidden))
        return self._projection.forward(x.transpose(1, 2))

    def backward(self, gradient: torch.Tensor, *, along: torch.Tensor) -> Gradients:
        """As of a Tower."""
        projected = self._projection.through_norm(gradient, along=along)
        gradients = self._projection.gradients(projected)
        back = self._products(self._tensors[f"{self._side}_weight"].transpose(1, 2), projected)
        separately = self._products.separately
        for block in reversed(range(self._count)):
            up, _, down = (self._tensors[f"{self._side}_{part}_{block}"] for part in _PARTS)
            normed, scale, share, hidden = self._kept[block]
            gradients[f"{self._side}_down_{block}"] = separately(back, hidden.transpose(1, 2))
            # silu'(a) = s (1 + a (1 - s)), s the sigmoid of a.
            inner = self._products(down.transpose(1, 2), back).mul_(torch.addcmul(share, hidden, 1 - share))
            gradients[f"{self._side}_up_{block}"] = separately(inner, normed.transpose(1, 2))
            gradients[f"{self._side}_shift_{block}"] = inner.sum(2).unbind()
            if block:
                outer = self._products(up.transpose(1, 2), inner)
                along_normed = (outer * normed).mean(1, keepdim=True)
                back = back + (outer - outer.mean(1, keepdim=True)).addcmul_(normed, along_normed, value=-1).mul_(scale)
        return gradients


def _count(tensors: Mapping[str, Any], *, side: str) -> int:
    """How many blocks a side has."""
    return next((block for block in range(MOST_BLOCKS) if f"{side}_up_{block}" not in tensors), MOST_BLOCKS)


HEAD: type[Head] = MLPHead
