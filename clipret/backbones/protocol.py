"""What extraction needs of an encoder. Every family of FAMILIES has a class that does this.

Shape suffixes: B batch, S image side, L token positions, D feature width, E embedding width.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from clipret.machine.last_blocks import LastBlock


class Tokenizer(Protocol):
    """Captions -> token ids. Can be pickled."""

    @property
    def context_length(self) -> int:
        """The most tokens that the encoder reads, start and end included."""

    def is_too_long(self, text: str) -> bool:
        """Whether a text has more tokens than context_length, start and end included."""


class Backbone(Protocol):
    """A frozen encoder. Can be pickled, for worker processes that are spawned."""

    @property
    def name(self) -> str:
        """As asked for with --model."""

    @property
    def family(self) -> str:
        """Its row of FAMILIES. Part of the fingerprint, as are the next three."""

    @property
    def weights_sha256(self) -> str:
        """Of the weights, 64 hexadecimal digits."""

    @property
    def precision(self) -> str:
        """What it computes in: float32, float16 or bfloat16."""

    @property
    def preprocessing(self) -> str:
        """How an image becomes pixels, in words: "clip 224 px"."""

    @property
    def library(self) -> str:
        """The library that the encoder comes from, with its version."""

    @property
    def kernels(self) -> str:
        """What multiplies matrices: "oneDNN" or "torch". The two differ in the last bits of the features."""

    @property
    def details(self) -> Mapping[str, str]:
        """What else decides the features, in words: tokenizer, pooling, revision. Part of the fingerprint."""

    @property
    def widths(self) -> dict[str, int]:
        """image, text -> D, the feature widths."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def image_side(self) -> int:
        """S: height and width of the pixels that encode_image takes."""

    @property
    def context_length(self) -> int:
        """The most tokens that encode_text takes, start and end included."""

    @property
    def crop(self) -> Callable[[Image.Image], Image.Image]:
        """PIL image -> PIL RGB image of S x S. Can be pickled, without the weights."""

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The colour that the encoder's normalisation brings nearest to zero: for the borders of padded images."""

    @property
    def resizes_as_clip(self) -> bool:
        """Whether crop is clip's: the short side to S, bicubic, and the centre. A GPU does that for --decode fast."""

    def prepare(self) -> None:
        """Prepare everything that is prepared once: processes forked after this share it."""

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, S, S, 3) uint8 -> (B, D) penultimate features on the device: the input of the final projection."""

    @property
    def last_blocks(self) -> Mapping[str, LastBlock] | None:
        """image, text -> the last block, of a TokenBackbone; None: tokens cannot be kept."""

    def tokenize(self, captions: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """Ids of every caption, truncated to context_length, and (B,) int64 token counts before truncation."""

    def pad(self, tokens: list[np.ndarray]) -> torch.Tensor:
        """Ids of B captions -> (B, L), the input of encode_text, L the longest of them."""

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, L) token ids, as pad makes them -> (B, D) penultimate features on the device."""

    def projections(self) -> dict[str, np.ndarray]:
        """The encoder's own head in float32: image/weight (D_i, E), text/weight (D_t, E), logit_scale, and where there
        is one image/bias, text/bias. The weight of a side without a projection is the identity; of two encoders that
        were never aligned there is logit_scale alone.
        """

    def require_exact(self, side: str, *, inputs: torch.Tensor, features: torch.Tensor) -> None:
        """Raise BackboneError unless features times projection equal the reference library's own output.

        side      image or text
        inputs    pixels or token ids, as for encode_image and encode_text
        features  what encode_image or encode_text returned for them
        """


class TokenBackbone(Backbone, Protocol):
    """A frozen encoder whose tokens can be kept. T tokens of width W go into the last block."""

    def encode_image(self, pixels: torch.Tensor, *, tokens: bool = False) -> torch.Tensor:
        """As of a Backbone; with tokens (B, D + T W), the features and behind them the tokens."""

    def encode_text(self, ids: torch.Tensor, *, tokens: bool = False) -> torch.Tensor:
        """As of a Backbone; with tokens (B, D + L W), as of encode_image."""

    def finish(self, side: str, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, W) tokens -> (B, D), the features that the last block makes of them."""
