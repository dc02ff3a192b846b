"""A residual adapter behind CLIP's own projections.

Shape suffixes are those of heads.base, and H the width of the adapter's bottleneck.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from clipret.heads.added import AddedHead, second_width
from clipret.heads.base import (
    Dense,
    Gradients,
    MetadataError,
    Normalise,
    Shapes,
    Tensors,
    Tower,
    normalise_columns,
    through_norm,
    uniform,
)
from clipret.heads.linear import LinearHead, Projection
from clipret.machine.products import Products

# Values of `relu` in a file's metadata.
_RELU = {"true": True, "false": False}


class AdapterHead(AddedHead):
    """A residual bottleneck adapter behind CLIP's own projection, on either side or both.

        z = normalize(x W + b);  a = relu(z down);  o = relu(a up), or a up without relu
        embedding = normalize(ratio * o + (1 - ratio) * z)

    down is (E, H), up (H, E), no biases: CLIP-Adapter (Gao et al. 2021), as its reference implementation has it on the
    image side. While up is 0 the head computes CLIP's embeddings, unless ratio is 1. The last relu's subgradient at 0
    is taken as 1: with the usual 0, up would never move from there.
    """

    kind = "adapter"
    parts, silent, frozen = ("down", "up"), ("up",), True

    def __init__(self, tensors: Mapping[str, torch.Tensor | np.ndarray], *, ratio: float, relu: bool = True):
        """tensors: as of a Head, with SIDE_down and SIDE_up of the sides that have an adapter.

        ratio  of the adapter's output in the embedding, 0 to 1
        relu   whether there is a relu after `up`
        """
        super().__init__(tensors)
        self.ratio, self.relu = ratio, relu

    @classmethod
    def build(cls, tensors: Mapping[str, torch.Tensor], *, settings: Mapping[str, Any]) -> "AdapterHead":
        """As of a Head."""
        return cls(tensors, ratio=settings["adapter_ratio"], relu=settings["adapter_relu"])

    @classmethod
    def draw(
        cls, clip: Tensors, *, side: str, settings: Mapping[str, Any], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """As of an AddedHead: down uniform within E^-0.5 either way, up within H^-0.5. H is E // reduction, but at
        least 1."""
        width = clip["text_weight"].shape[1]
        bottleneck = max(1, width // settings["adapter_reduction"])
        shapes = {"down": (width, bottleneck), "up": (bottleneck, width)}
        return {part: uniform(shape, bound=shape[0] ** -0.5, generator=generator) for part, shape in shapes.items()}

    @classmethod
    def part_shapes(cls, depth: int, width: int, *, actual: Callable[[str], tuple[int, ...]]) -> Shapes:
        """As of an AddedHead; the bottleneck is as wide as that of the file's own `down`."""
        bottleneck = second_width(actual("down"))
        return {"down": (width, bottleneck), "up": (bottleneck, width)}

    @classmethod
    def added_tower(cls, tensors: Tensors, *, side: str, settings: Mapping[str, Any], products: Products) -> Tower:
        """As of an AddedHead."""
        ratio, relu = settings["adapter_ratio"], settings["adapter_relu"]
        return Adapter(tensors, side=side, ratio=ratio, relu=relu, products=products)

    @classmethod
    def load(cls, tensors: Tensors, *, metadata: Mapping[str, str]) -> "AdapterHead":
        """As of a Head."""
        try:
            ratio = float(metadata.get("ratio", ""))
        except ValueError:
            ratio = -1.0
        if not 0 <= ratio <= 1:
            raise MetadataError("ratio", expected="a number from 0 to 1")
        if metadata.get("relu") not in _RELU:
            raise MetadataError("relu", expected="true or false")
        return cls(tensors, ratio=ratio, relu=_RELU[metadata["relu"]])

    @property
    def metadata(self) -> dict[str, str]:
        """As of a Head: ratio, relu and sides."""
        return {"ratio": repr(float(self.ratio)), "relu": "true" if self.relu else "false"} | super().metadata

    def like(self, tensors: Mapping[str, torch.Tensor | np.ndarray]) -> "AdapterHead":
        """As of a Head."""
        return AdapterHead(tensors, ratio=self.ratio, relu=self.relu)

    def layers(self, side: str) -> tuple[Dense | Normalise, ...]:
        """As of a Head. z passes a relu unchanged as relu(z) - relu(-z)."""
        base, down, up = LinearHead.layers(self, side), getattr(self, f"{side}_down"), getattr(self, f"{side}_up")
        if down is None:
            return base
        width = down.shape[0]
        eye, up = torch.eye(width), up.detach()
        inner = Dense(torch.cat([down.detach(), eye, -eye], dim=1), relu=True)
        zeros = torch.zeros(2 * width, width)
        if self.relu:
            # The second layer's first columns are relu(a up), the others carry z as before.
            kept = torch.cat([torch.zeros(len(up), 2 * width), torch.eye(2 * width)])
            middle = (Dense(torch.cat([torch.cat([up, zeros]), kept], dim=1), relu=True),)
            last = torch.cat([self.ratio * eye, (1 - self.ratio) * eye, (self.ratio - 1) * eye])
        else:
            middle, last = (), torch.cat([self.ratio * up, (1 - self.ratio) * eye, (self.ratio - 1) * eye])
        return *base, inner, *middle, Dense(last), Normalise()

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Head."""
        return self._adapt(super().embed_images(features), down=self.image_down, up=self.image_up)

    def embed_texts(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Head."""
        return self._adapt(super().embed_texts(features), down=self.text_down, up=self.text_up)

    def _adapt(self, embeddings: torch.Tensor, *, down: nn.Parameter | None, up: nn.Parameter | None) -> torch.Tensor:
        if down is None:
            return embeddings
        raised = functional.relu(embeddings @ down) @ up
        if self.relu:
            raised = torch.where(raised < 0, 0, raised)
        return functional.normalize(self.ratio * raised + (1 - self.ratio) * embeddings, dim=-1)


class Adapter:
    """normalize(ratio * o + (1 - ratio) * z): the Tower of a side with an adapter, z a frozen projection."""

    def __init__(self, tensors: Tensors, *, side: str, ratio: float, relu: bool, products: Products):
        """tensors: the projection's, SIDE_down (S, H, E) and SIDE_up (S, E, H)."""
        self._projection = Projection(tensors, side=side, learns=False, products=products)
        self._down, self._up = tensors[f"{side}_down"], tensors[f"{side}_up"]
        self._side, self._ratio, self._relu, self._products = side, ratio, relu, products

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """As of a Tower."""
        self._base = self._projection.forward(features)
        self._hidden = self._products(self._down, self._base).clamp_min_(0)
        self._raised = self._products(self._up, self._hidden)
        mixed = self._raised.clamp_min(0) if self._relu else self._raised.clone()
        mixed.mul_(self._ratio).add_(self._base, alpha=1 - self._ratio)
        self._embeddings, self._norms = normalise_columns(mixed)
        return self._embeddings

    def backward(self, gradient: torch.Tensor, *, along: torch.Tensor) -> Gradients:
        """As of a Tower. relu's subgradient at 0 is 1 for the last one, or `up`, which is 0 at the start, would never
        move."""
        gradient = through_norm(gradient, self._embeddings, along=along, norms=self._norms).mul_(self._ratio)
        if self._relu:
            gradient *= self._raised >= 0
        up = self._products.separately(gradient, self._hidden.transpose(1, 2))
        inner = self._products(self._up.transpose(1, 2), gradient)
        inner *= self._hidden > 0
        down = self._products.separately(inner, self._base.transpose(1, 2))
        return {f"{self._side}_up": up, f"{self._side}_down": down}


HEAD = AdapterHead
