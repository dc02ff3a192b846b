"""A first try of an encoder, before anything else is read: what its files say has to fit together."""

import contextlib
from collections.abc import Iterator

import torch
from PIL import Image

from clipret.backbones.library import LibraryBackbone
from clipret.backbones.loading import quiet
from clipret.backbones.sizes import MOST_SIDE, require_statistics
from clipret.errors import BackboneError, ClipretError

# A longest caption; some encoders read tens of thousands of tokens.
_MOST_TOKENS = 512
# Width and height of images, on their side and upright.
_SIZES = ((97, 61), (61, 97))


@contextlib.contextmanager
def usable(name: str) -> Iterator[None]:
    """Inside, what libraries raise at files that do not fit together becomes a BackboneError; out of memory does not.

    name  of the model, as given to --model
    """
    try:
        yield
    except (ClipretError, MemoryError, OSError, ImportError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # Of transformers, open_clip, timm, tokenizers and torch, at files that could say anything.
        if "allocate memory" in str(error):
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise BackboneError(
            f"the files of {name} do not fit together ({type(error).__name__}: {reason}); expected those that its "
            f"library saved: copy all of them again."
        ) from None


@torch.inference_mode()
def require_working(backbone: LibraryBackbone) -> None:
    """Raise BackboneError unless both sides give finite features of a grey image and of the longest caption."""
    require_statistics(backbone.image.mean, backbone.image.std, name=backbone.name)
    length = backbone.context_length
    if length < 3:
        raise BackboneError(
            f"the text side of {backbone.name} reads at most {length} tokens by its tokenizer and config; expected 3 "
            f"or more: a start, a word and an end."
        )
    side = backbone.image_side
    if side > MOST_SIDE:
        raise BackboneError(
            f"{backbone.name} takes images of {side:,} x {side:,} pixels; expected at most {MOST_SIDE:,}."
        )
    for size in _SIZES:
        prepared = backbone.crop(Image.new("RGB", size)).size
        if prepared != (side, side):
            raise BackboneError(
                f"the preprocessing of {backbone.name} makes images of {prepared[0]} x {prepared[1]} pixels; its model "
                f"takes {side} x {side}."
            )
    grey = torch.full((1, side, side, 3), 128, dtype=torch.uint8)
    with quiet():
        ids = backbone.pad(backbone.tokenize([" ".join(["a"] * min(length, _MOST_TOKENS))])[0])
        # Not through torch.compile, which would make kernels for this one.
        _require_finite(backbone, "image", features=backbone.image.encode(backbone._normalise(grey)))
        _require_finite(backbone, "text", features=backbone.text.encode(ids.to(backbone.device)))


def _require_finite(backbone: LibraryBackbone, side: str, *, features: torch.Tensor) -> None:
    if not features.isfinite().all():
        raise BackboneError(
            f"{side} features of {backbone.name} are not finite: its weights hold NaN or infinite values, or "
            f"{backbone.precision} is too narrow for it. Copy the weights again, or try --precision fp32."
        )
