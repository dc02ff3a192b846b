"""Encoders as their own libraries run them, up to the penultimate features.

A side is a model whose final projection was taken out, so that it returns what goes into it. Before the first batch is
written, the projection is put back once, and features times projection are compared with the library's own output.

Shape suffixes: B batch, S image side, L token positions, D feature width, E embedding width.
"""

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.transforms import Normalize, ToTensor

from clipret.backbones.exactness import require_equal
from clipret.backbones.kernels import whole_float32
from clipret.backbones.origin import Origin
from clipret.backbones.pixels import CLIP_RESIZE, Normaliser, colour_of
from clipret.backbones.tokenizing import LibraryTokenizer

# Positions of the longest captions that are compared: some encoders read tens of thousands.
_PADDED = 512
# Where the scale of similarities starts in CLIP's training (Radford et al. 2021, section 2.5).
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)

_BY_KIND: Any = object()


class Slot:
    """The place of a final projection in a model, empty but while its owner is compared: owner.name.

    The projection is a matrix (D, E), or a Linear, perhaps with a bias.
    """

    def __init__(self, owner: nn.Module, name: str, *, empty: nn.Module | None = _BY_KIND):
        """Take the projection out. empty: what stands in its place; by default None, or nn.Identity for a module."""
        self._owner, self._name = owner, name
        self._projection = getattr(owner, name)
        is_module = isinstance(self._projection, nn.Module)
        self._empty = (nn.Identity() if is_module else None) if empty is _BY_KIND else empty
        setattr(owner, name, self._empty)

    @property
    def weight(self) -> torch.Tensor:
        """(D, E)."""
        return self._projection.weight.T if isinstance(self._projection, nn.Linear) else self._projection

    @property
    def bias(self) -> torch.Tensor | None:
        """(E,), or None."""
        return self._projection.bias if isinstance(self._projection, nn.Linear) else None

    def another(self, weight: torch.Tensor, *, bias: torch.Tensor | None) -> nn.Module | nn.Parameter:
        """Another projection for this place: weight (D, E), bias (E,), or None for none or zeros.

        Raises ValueError where there is a bias, and no place for it.
        """
        if self.bias is None and bias is not None:
            raise ValueError("there is no place for a bias")
        if not isinstance(self._projection, nn.Linear):
            return nn.Parameter(weight.clone(), False)
        linear = nn.Linear(*weight.shape, bias=self.bias is not None)
        with torch.no_grad():
            linear.weight.copy_(weight.T)
            if self.bias is not None:
                linear.bias.copy_(torch.zeros(weight.shape[1]) if bias is None else bias)
        return linear.requires_grad_(False)

    @contextlib.contextmanager
    def filled(self, like: torch.Tensor, *, projection: nn.Module | nn.Parameter | None = None) -> Iterator[None]:
        """Inside, the projection is in its place, on the device and of the type of `like`; or another one is."""
        # A copy: what is converted to fewer bits would not come back.
        copied = copy.deepcopy(self._projection if projection is None else projection)
        moved = copied.to(like.device, like.dtype)
        moved = moved if isinstance(moved, nn.Module) else nn.Parameter(moved, False)
        setattr(self._owner, self._name, moved)
        try:
            yield
        finally:
            setattr(self._owner, self._name, self._empty)


@dataclass(frozen=True, eq=False)
class Side:
    """One side of an encoder. Can be pickled.

    model      in eval mode, without its projection
    encode     inputs -> (B, D): what the model computes
    reference  inputs -> (B, E): the library's own output, called while the projection is in its place
    slot       of the projection; None: the features are the embeddings, or the side was never aligned with another
    width      D
    """

    model: nn.Module
    encode: Callable[[torch.Tensor], torch.Tensor]
    reference: Callable[[torch.Tensor], torch.Tensor]
    slot: Slot | None
    width: int

    def projection(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Weight (D, E) and bias (E,) or None, float32; the identity where there is no projection."""
        if self.slot is None:
            return np.eye(self.width, dtype=np.float32), None
        bias = self.slot.bias
        return _array(self.slot.weight), None if bias is None else _array(bias)

    def expected(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, E) the library's own output."""
        parameter = next(self.model.parameters())
        with self.slot.filled(parameter) if self.slot else contextlib.nullcontext():
            return self.reference(inputs)


@dataclass(frozen=True, eq=False)
class ImageSide(Side):
    """The image side: (B, 3, S, S) normalised pixels -> (B, D).

    crop       PIL image -> PIL RGB image of S x S
    side       S
    mean, std  of the three channels
    """

    crop: Callable
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class TextSide(Side):
    """The text side: (B, L) token ids -> (B, D)."""

    tokenizer: LibraryTokenizer


@dataclass(frozen=True, eq=False)
class LibraryBackbone:
    """A frozen encoder, a protocol.Backbone, that runs as its library has it.

    name            as given to --model
    family          its row of FAMILIES
    library         the libraries that it comes from, with their versions
    weights_sha256  of the files of its weights
    image, text     its sides
    precision       what they compute in: float32, float16 or bfloat16
    compiled        whether they go through torch.compile
    logit_scale     the encoder's own, a logarithm
    aligned         whether the sides have projections to one space
    preprocessing   how an image becomes pixels, in words; "224 px, shortest, bicubic" if that is as clip does it
    details         what else decides the features: tokenizer, pooling, revision
    origin          what its library reads beside the weights; None: it is of no one library's form
    """

    name: str
    family: str
    library: str
    weights_sha256: str
    image: ImageSide
    text: TextSide
    preprocessing: str
    precision: str = "float32"
    compiled: bool = False
    logit_scale: float = INITIAL_LOGIT_SCALE
    aligned: bool = True
    details: Mapping[str, str] = field(default_factory=dict)
    origin: Origin | None = None

    def __post_init__(self):
        for model in {id(side.model): side.model for side in (self.image, self.text)}.values():
            model.requires_grad_(False).eval().to(self._dtype, memory_format=torch.channels_last)

    @property
    def kernels(self) -> str:
        """What multiplies matrices: the library's operations are torch's."""
        return "torch"

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """Of the image side's normalisation."""
        return colour_of(self.image.mean)

    @property
    def resizes_as_clip(self) -> bool:
        """Whether `preprocessing` begins as clip's would."""
        return self.preprocessing.startswith(f"{self.image_side} {CLIP_RESIZE}")

    @property
    def device(self) -> torch.device:
        """Where the image side is; the text side is there too."""
        return next(self.image.model.parameters()).device

    @property
    def image_side(self) -> int:
        """S: height and width of the pixels that the image side takes."""
        return self.image.side

    @property
    def context_length(self) -> int:
        """The most tokens that the text side reads, start and end included."""
        return self.text.tokenizer.context_length

    @property
    def crop(self) -> Callable:
        """PIL image -> PIL RGB image of S x S."""
        return self.image.crop

    @property
    def widths(self) -> dict[str, int]:
        """image, text -> D."""
        return {"image": self.image.width, "text": self.text.width}

    @property
    def last_blocks(self) -> None:
        """The tokens inside other libraries' encoders cannot be kept."""
        return None

    def prepare(self) -> None:
        """Compute all cached properties: processes forked after this share them."""
        for name in ("_normaliser", "_encode_pixels", "_encode_ids"):
            getattr(self, name)

    @torch.inference_mode()
    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, S, S, 3) uint8 -> (B, D) penultimate features on the device, float32, or float16 with fp16."""
        assert pixels.dtype == torch.uint8
        with whole_float32(self.device):
            return _widened(self._encode_pixels(self._normalise(pixels)))

    @torch.inference_mode()
    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, L) token ids -> (B, D) penultimate features, of the type of encode_image."""
        with whole_float32(self.device):
            return _widened(self._encode_ids(ids.to(self.device, torch.int64, non_blocking=True)))

    def tokenize(self, captions: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """Ids of the captions as the library's tokenizer gives them; (B,) int64 counts before truncation."""
        return self.text.tokenizer(captions)

    def pad(self, tokens: list[np.ndarray]) -> torch.Tensor:
        """Ids of B captions -> (B, L) int64, padded as the tokenizer pads."""
        return self.text.tokenizer.pad(tokens)

    def projections(self) -> dict[str, np.ndarray]:
        """The encoder's own head in float32, as protocol.Backbone has it; logit_scale alone if it was never aligned."""
        tensors = {"logit_scale": np.array(self.logit_scale, dtype=np.float32)}
        for name, side in (("image", self.image), ("text", self.text)) if self.aligned else ():
            tensors[f"{name}/weight"], bias = side.projection()
            if bias is not None:
                tensors[f"{name}/bias"] = bias
        return tensors

    @torch.inference_mode()
    def require_exact(self, side: str, *, inputs: torch.Tensor, features: torch.Tensor) -> None:
        """Raise BackboneError unless features times projection equals the library's own output; as of a Backbone."""
        part = self.image if side == "image" else self.text
        if side == "image":
            prepared = self._normalise(inputs)
        else:
            # To its full length, as the library itself does; or enough to see that it makes no difference.
            missing = max(min(self.context_length, _PADDED) - inputs.shape[1], 0)
            padded = nn.functional.pad(inputs, (0, missing), value=self.text.tokenizer.padding)
            prepared = padded.to(self.device, torch.int64)
        with whole_float32(self.device):
            expected = part.expected(prepared)
        weight, bias = part.projection()
        ours = features.float() @ torch.from_numpy(weight).to(features.device)
        if bias is not None:
            ours += torch.from_numpy(bias).to(features.device)
        what = f"{side} features of {self.name} times its projection"
        require_equal(ours, expected, what=what, source="the library", library=self.library, dtype=self._dtype)

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(torch, self.precision)

    def _normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, S, S, 3) uint8 -> (B, 3, S, S) in channels_last order."""
        values = self._normaliser(pixels.to(self.device, non_blocking=True).flatten(2)).view(pixels.shape)
        return values.permute(0, 3, 1, 2).to(self._dtype)

    @functools.cached_property
    def _normaliser(self) -> Normaliser:
        return Normaliser([ToTensor(), Normalize(self.image.mean, self.image.std)], device=self.device)

    @functools.cached_property
    def _encode_pixels(self) -> Callable:
        return torch.compile(self.image.encode) if self.compiled else self.image.encode

    @functools.cached_property
    def _encode_ids(self) -> Callable:
        return torch.compile(self.text.encode, dynamic=True) if self.compiled else self.text.encode


def identity(width: int) -> nn.Linear:
    """x -> x, for a place whose weight is read without calling the module."""
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def measure_width(encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> int:
    """D of what a model returns for inputs, for sides without a projection that would say it."""
    with torch.inference_mode():
        return encode(inputs).shape[1]


def _array(values: torch.Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy().copy()


def _widened(features: torch.Tensor) -> torch.Tensor:
    return features.float() if features.dtype == torch.bfloat16 else features
