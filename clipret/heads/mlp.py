"""Residual blocks before CLIP's own projections.

Shape suffixes are those of heads.base, and H the width inside a block.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from clipret.heads.added import AddedHead, second_width
from clipret.heads.base import Gradients, Shapes, Tensors, Tower, uniform
from clipret.heads.linear import Projection
from clipret.machine.products import Products

MOST_BLOCKS = 8
_PARTS = ("up", "shift", "down")
# As torch.nn.LayerNorm has it.
_EPSILON = 1e-5


class MLPHead(AddedHead):
    """Residual blocks before CLIP's own projections, all of it trainable, on either side or both.

        x <- x + silu(norm(x) up + shift) down        for each block, norm a layer norm without parameters
        embedding = normalize(x W + b)

    up is (D, H), shift (H,), down (H, D). While every down is 0 the head computes CLIP's embeddings. Blocks of this
    kind are FuseMix's (Vouitsis et al. 2024).
    """

    kind = "mlp"
    parts = tuple(f"{part}_{block}" for block in range(MOST_BLOCKS) for part in _PARTS)
    silent = tuple(f"down_{block}" for block in range(MOST_BLOCKS))

    @classmethod
    def draw(
        cls, clip: Tensors, *, side: str, settings: Mapping[str, Any], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """As of an AddedHead: up uniform within D^-0.5 either way, down within H^-0.5, shift 0."""
        depth, width, drawn = len(clip[f"{side}_weight"]), settings["hidden"], {}
        for block in range(settings["blocks"]):
            up = uniform((depth, width), bound=depth**-0.5, generator=generator)
            down = uniform((width, depth), bound=width**-0.5, generator=generator)
            drawn |= {f"up_{block}": up, f"shift_{block}": torch.zeros(width), f"down_{block}": down}
        return drawn

    @classmethod
    def part_shapes(cls, depth: int, width: int, *, actual: Callable[[str], tuple[int, ...]]) -> Shapes:
        """As of an AddedHead; there are as many blocks, as wide, as in the file."""
        inner, shapes = second_width(actual("up_0")), {}
        for block in range(max(1, _count(actual))):
            shapes |= {f"up_{block}": (depth, inner), f"shift_{block}": (inner,), f"down_{block}": (inner, depth)}
        return shapes

    @classmethod
    def added_tower(cls, tensors: Tensors, *, side: str, settings: Mapping[str, Any], products: Products) -> Tower:
        """As of an AddedHead."""
        return Blocks(tensors, side=side, products=products)

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
        self._count = _count(lambda part: f"{side}_{part}" in tensors)

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


def _count(tensor: Callable[[str], Any]) -> int:
    """How many blocks a side has, by its parts, as far as they are there."""
    return next((block for block in range(MOST_BLOCKS) if not tensor(f"up_{block}")), MOST_BLOCKS)


HEAD = MLPHead
