"""What every head has. A kind of head is a class in a file of its own, with the gradients of a stack beside it.

Shape suffixes: S runs of a stack, B rows, D feature width, E embedding width.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

SIDES = ("image", "text")
# What a side of a head reads.
FEATURES, TOKENS = "features", "tokens"
PROJECTION_NAMES = ("image_weight", "image_bias", "text_weight", "text_bias")
# Of a row of zeros: as torch.nn.functional.normalize has it.
_SMALLEST_NORM = 1e-12

Tensors = dict[str, torch.Tensor]
Shapes = Mapping[str, tuple[int, ...]]
Gradients = dict[str, Sequence[torch.Tensor]]
NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


class MetadataError(ValueError):
    """The metadata of a head's file has a wrong value: the name it is under, and what was expected."""

    def __init__(self, name: str, *, expected: str):
        super().__init__(name)
        self.name, self.expected = name, expected


@dataclass(frozen=True)
class Start:
    """What a head begins as, beside the encoder's projections.

    init       one of the inits of the kind's row
    sides      those that learn
    settings   those that the kind's row names
    generator  of random numbers
    """

    init: str
    sides: tuple[str, ...]
    settings: Mapping[str, Any]
    generator: torch.Generator


class Dense(NamedTuple):
    """x -> x weight + bias, then relu where asked. weight (D, E) as in CLIP's vision transformer, bias (E,) or None."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    relu: bool = False


class Normalise(NamedTuple):
    """x -> x of norm 1."""


class Tower(Protocol):
    """One side of a stack of heads, with its gradient written out.

    Everything is transposed, embeddings (S, E, B) and weights (S, E, D): then the left factor of every product is
    contiguous, which the CPU's products want.
    """

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features (S, B, D) -> embeddings (S, E, B), columns of norm 1."""

    def backward(self, gradient: torch.Tensor, *, along: torch.Tensor) -> Gradients:
        """Gradients of what learns, by name, a tensor for each run, from that of the embeddings of the last forward.

        gradient  (S, E, B), overwritten
        along     (S, 1, B) its inner product with the embeddings
        """


class Head(nn.Module):
    """The base of all kinds: the encoder's projections of both sides, and what a kind of head does with them.

    image_weight (D_i, E), text_weight (D_t, E) as in CLIP's vision transformer; image_bias, text_bias (E,) or None
    where the encoder has none. All tensors are float32.

    kind         its name in HEADS, and in its files
    learns_from  what a side reads that learns: FEATURES, or TOKENS, which come as TokenRows; others read FEATURES
    names        of all tensors that it may have
    remarks      what a user should know who measures it
    """

    kind: str
    learns_from: str = FEATURES
    names: tuple[str, ...] = PROJECTION_NAMES
    remarks: tuple[str, ...] = ()

    def __init__(self, tensors: Mapping[str, torch.Tensor | np.ndarray]):
        """tensors: by name, a cache's projections (image/weight, ...) or a head's tensors (image_weight, ...).

        Arrays are copied; tensors are shared, so that they can be trained under the head. Other names are ignored.
        """
        super().__init__()
        values = {name.replace("/", "_"): array for name, array in tensors.items()}
        for name in self.names:
            self.register_parameter(name, _parameter(values[name]) if name in values else None)

    @classmethod
    def build(cls, tensors: Mapping[str, torch.Tensor], *, settings: Mapping[str, Any]) -> "Head":
        """The head of a training's tensors, which it shares; settings are those that the kind's row names."""
        return cls(tensors)

    @classmethod
    def start(cls, clip: Tensors, wanted: Start) -> Tensors:
        """All tensors of a head before its first step, where that is no solution in closed form.

        clip  the cache's projections by the head's names, float32; what does not learn stays as they are
        """
        raise NotImplementedError

    @classmethod
    def learning_names(cls, side: str, *, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the tensors of a side that learns, as far as the head has them."""
        raise NotImplementedError

    @classmethod
    def tower(cls, tensors: Tensors, *, side: str, learns: bool, settings: Mapping[str, Any], products) -> Tower:
        """A side of a stack of heads.

        tensors   (S, ...) by name, matrices transposed; the optimiser updates them in place
        learns    whether the side does
        products  machine.products.Products
        """
        raise NotImplementedError

    @classmethod
    def shapes(cls, projections: Mapping[str, np.ndarray], *, actual: Shapes, metadata: Mapping[str, str]) -> Shapes:
        """Name -> shape of the tensors that a file of such a head has to have, for a cache's projections.

        actual    shapes in the file, for what the projections leave open
        metadata  of the file, as read_settings takes it
        """
        return {name: tuple(tensor.shape) for name, tensor in clip_tensors(projections).items()}

    @classmethod
    def load(cls, tensors: Tensors, *, metadata: Mapping[str, str]) -> "Head":
        """The head of a file's tensors. Raises MetadataError."""
        return cls(tensors)

    @property
    def tensors(self) -> Tensors:
        """Everything that the head consists of, by name, sharing memory with it."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def layers(self, side: str) -> tuple[Dense | Normalise, ...] | None:
        """Features of a side -> embeddings, as layers that other libraries have too; None: there are none that do it.

        A head of one Dense and one Normalise is a projection like the encoder's own, and can stand in its place.
        """
        return None

    def replaced_block(self, side: str) -> tuple[str, Tensors] | None:
        """Form and parts (machine.last_blocks) of the block that stands in place of the encoder's last; None: none."""
        return None

    def behind_blocks(self) -> "Head":
        """The head of the features of an encoder in which the replaced blocks stand; itself where there are none."""
        return self

    @property
    def inputs(self) -> dict[str, str]:
        """image, text -> what embed_images and embed_texts read: FEATURES or TOKENS."""
        return dict.fromkeys(SIDES, FEATURES)

    @property
    def widths(self) -> str:
        """The widths of features and embeddings in words, for whoever looks at the head's file."""
        (image, width), (text, _) = self.image_weight.shape, self.text_weight.shape
        return f"image {image}, text {text}, embedding {width}"

    @property
    def metadata(self) -> dict[str, str]:
        """What, beside its tensors, decides the head, as its file keeps it."""
        return {}

    def like(self, tensors: Mapping[str, torch.Tensor | np.ndarray]) -> "Head":
        """A head of the same kind and settings of other tensors."""
        return type(self)(tensors)

    def untrained(self, projections: Mapping[str, np.ndarray]) -> Tensors:
        """What this head's tensors are where it computes CLIP's embeddings, of a cache's projections; on its device."""
        tensors = self.tensors
        device = next(iter(tensors.values())).device
        # A bias that the encoder does not have is 0.
        added = {name: torch.zeros_like(tensor) for name, tensor in tensors.items() if name in PROJECTION_NAMES}
        return added | {name: tensor.to(device) for name, tensor in clip_tensors(projections).items()}

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D_i) image features -> (B, E) L2-normalised embeddings."""
        raise NotImplementedError

    def embed_texts(self, features: torch.Tensor) -> torch.Tensor:
        """(B, D_t) text features -> (B, E) L2-normalised embeddings."""
        raise NotImplementedError


def clip_tensors(projections: Mapping[str, np.ndarray], *, names: Sequence[str] = PROJECTION_NAMES) -> Tensors:
    """A cache's projections by the head's names, those of `names`: new, float32, on the CPU."""
    arrays = {name.replace("/", "_"): array for name, array in projections.items()}
    return {name: torch.tensor(arrays[name], dtype=torch.float32) for name in names if name in arrays}


def learning_names(
    kind: type[Head], *, sides: tuple[str, ...], tensors: Mapping[str, Any], settings: Mapping[str, Any] = NO_SETTINGS
) -> tuple[str, ...]:
    """Names of the tensors that learn, of those that a head of this kind has; not every encoder has biases."""
    names = (name for side in sides for name in kind.learning_names(side, settings=settings))
    return tuple(name for name in names if name in tensors)


def sides_word(sides: Iterable[str]) -> str:
    """Which sides have more than a projection, as a file's metadata says it: both, image or text."""
    listed = tuple(sides)
    return "both" if len(listed) == 2 else listed[0]


def sides_in(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The sides that have more than a projection, by a file's metadata. Raises MetadataError."""
    sides = {"both": SIDES, **{side: (side,) for side in SIDES}}
    if metadata.get("sides") not in sides:
        raise MetadataError("sides", expected="both, image or text")
    return sides[metadata["sides"]]


def uniform(shape: tuple[int, int], *, bound: float, generator: torch.Generator) -> torch.Tensor:
    """A tensor of this shape, uniform within the bound either way."""
    return torch.rand(shape, generator=generator).mul_(2 * bound).sub_(bound)


def normalise_columns(columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(S, E, B) columns of norm 1, in place, and the norms (S, 1, B) that they had."""
    norms = (columns * columns).sum(1, keepdim=True).sqrt_().clamp_min_(_SMALLEST_NORM)
    return columns.div_(norms), norms


def through_norm(
    gradient: torch.Tensor, embeddings: torch.Tensor, *, along: torch.Tensor, norms: torch.Tensor
) -> torch.Tensor:
    """The gradient before normalisation, (g - u (u . g)) / norm, in place."""
    return gradient.addcmul_(embeddings, along, value=-1).div_(norms)


def _parameter(values: torch.Tensor | np.ndarray) -> nn.Parameter:
    if isinstance(values, torch.Tensor):
        return nn.Parameter(values.detach())
    return nn.Parameter(torch.tensor(np.asarray(values), dtype=torch.float32))
