"""What heads have in common that add something to CLIP's own projections, on either side or both.

Shape suffixes are those of heads.base.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from clipret.heads.base import (
    PROJECTION_NAMES,
    SIDES,
    Shapes,
    Start,
    Tensors,
    Tower,
    sides_in,
    sides_word,
)
from clipret.heads.linear import LinearHead, Projection
from clipret.machine.products import Products


class AddedHead(LinearHead):
    """A linear head and more, which at the start adds nothing: the head then computes CLIP's embeddings.

    parts   of a side that has more, in the order in which they are listed: its tensors are called SIDE_PART
    silent  those of them that are 0 at the start
    frozen  whether the projections stay CLIP's own
    """

    parts: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    frozen: bool = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.names = (*PROJECTION_NAMES, *(f"{side}_{part}" for side in SIDES for part in cls.parts))

    @classmethod
    def draw(
        cls, clip: Tensors, *, side: str, settings: Mapping[str, Any], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """Part -> tensor of a side, at random. settings are those that the kind's row names."""
        raise NotImplementedError

    @classmethod
    def part_shapes(cls, depth: int, width: int, *, actual: Callable[[str], tuple[int, ...]]) -> Shapes:
        """Part -> the shape that it has to have, on a side of features (D,) and embeddings (E,).

        actual  part -> its shape in the file, () where it is missing
        """
        raise NotImplementedError

    @classmethod
    def added_tower(cls, tensors: Tensors, *, side: str, settings: Mapping[str, Any], products: Products) -> Tower:
        """The Tower of a side that has more."""
        raise NotImplementedError

    @classmethod
    def start(cls, clip: Tensors, wanted: Start) -> Tensors:
        """As of a Head: what is added at random, but its silent parts 0; random: those at random too, and projections
        that learn as of a linear head."""
        added = {}
        for side in SIDES:
            # Both sides are drawn whichever learns, so that a side starts the same with or without the other.
            drawn = cls.draw(clip, side=side, settings=wanted.settings, generator=wanted.generator)
            for part, tensor in drawn.items():
                if side in wanted.sides:
                    silent = part in cls.silent and wanted.init != "random"
                    added[f"{side}_{part}"] = torch.zeros_like(tensor) if silent else tensor
        if cls.frozen:
            return clip | added
        return super().start(clip, wanted) | added

    @classmethod
    def learning_names(cls, side: str, *, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """As of a Head."""
        added = tuple(f"{side}_{part}" for part in cls.parts)
        return added if cls.frozen else (*super().learning_names(side, settings=settings), *added)

    @classmethod
    def tower(
        cls, tensors: Tensors, *, side: str, learns: bool, settings: Mapping[str, Any], products: Products
    ) -> Tower:
        """As of a Head."""
        if not learns:
            return Projection(tensors, side=side, learns=False, products=products)
        return cls.added_tower(tensors, side=side, settings=settings, products=products)

    @classmethod
    def shapes(cls, projections: Mapping[str, np.ndarray], *, actual: Shapes, metadata: Mapping[str, str]) -> Shapes:
        """As of a Head."""
        shapes = super().shapes(projections, actual=actual, metadata=metadata)
        for side in sides_in(metadata):
            depth, width = shapes[f"{side}_weight"]
            parts = cls.part_shapes(depth, width, actual=lambda part, side=side: actual.get(f"{side}_{part}", ()))
            shapes |= {f"{side}_{part}": shape for part, shape in parts.items()}
        return shapes

    @property
    def metadata(self) -> dict[str, str]:
        """As of a Head: sides."""
        return {"sides": sides_word(side for side in SIDES if getattr(self, f"{side}_{self.parts[0]}") is not None)}

    def untrained(self, projections: Mapping[str, np.ndarray]) -> Tensors:
        """As of a Head: silent parts are 0, the others the head's own."""
        added = {name: tensor for name, tensor in self.tensors.items() if name not in PROJECTION_NAMES}
        silent = {name: torch.zeros_like(added[name]) for name in added if name.partition("_")[2] in self.silent}
        return super().untrained(projections) | added | silent

    def layers(self, side: str) -> Any:
        """As of a Head: there are none, unless the kind knows better."""


def second_width(shape: tuple[int, ...]) -> int:
    """The second of two widths, of a file's tensor; 1 where the tensor is missing or has other dimensions."""
    return shape[1] if len(shape) == 2 else 1
