"""New images and captions -> features, as the extraction of a cache computed them."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipret.backbones.matching import load_matching
from clipret.backbones.protocol import Backbone
from clipret.cache import FeatureCache
from clipret.config import FAST_DECODERS
from clipret.datasets.captions import prompted
from clipret.errors import BackboneError, DatasetError, ExportError
from clipret.heads.base import SIDES, Head
from clipret.images import ImageReader, on_white, read_file, reason_of
from clipret.images.padding import crop_of
from clipret.machine.escaping import visible
from clipret.machine.rows import among_others, batches_of_a_length

# What load_backbone calls the precisions; float16 of a GPU is float32 on a CPU, which is close.
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}


@dataclass(frozen=True)
class CacheEncoder:
    """The encoder of a cache, with the cache's settings of reading images and captions.

    backbone    as load_matching loads it
    background  behind transparent pixels: white, or clip
    padded      whether images are padded to squares
    prompt      of captions
    cleaning    of captions, one of CAPTION_CLEANINGS
    fast        whether JPEG files are decoded at a smaller size, as by --decode fast on a CPU
    dtype       of the cache, which features are rounded to
    """

    backbone: Backbone
    background: str
    padded: bool
    prompt: str
    cleaning: str
    fast: bool = False
    dtype: torch.dtype = torch.float32

    def with_blocks_of(self, head: Head) -> "CacheEncoder":
        """The same with the blocks that a head has in place of the encoder's last; itself where it has none."""
        replaced = {side: head.replaced_block(side) for side in SIDES}
        blocks = {side: block for side, block in replaced.items() if block is not None}
        return replace(self, backbone=self.backbone.with_last_blocks(blocks)) if blocks else self

    @property
    def crop(self) -> Callable[[Image.Image], Image.Image]:
        """PIL image -> PIL RGB image of S x S, as the backbone sees it."""
        crop = crop_of(self.backbone, padded=self.padded)
        return (lambda image: crop(on_white(image))) if self.background == "white" else crop

    @functools.cached_property
    def reader(self) -> ImageReader:
        """What extraction reads images with."""
        return ImageReader(
            files=(),
            root=Path(),
            crop=crop_of(self.backbone, padded=self.padded),
            background=self.background,
            side=self.backbone.image_side,
            fast=self.fast,
        )

    def pixels(self, image: object, *, place: int) -> np.ndarray:
        """(S, S, 3) uint8 of an image file by its path, its bytes, a PIL image, or pixels (H, W, 3) uint8 in RGB.

        place  of the image among those asked for, for the message

        Raises DatasetError.
        """
        try:
            if isinstance(image, (str, Path)):
                return self.reader.decode(read_file(str(image), root=Path()), fast=self.fast)
            if isinstance(image, (bytes, bytearray, memoryview)):
                return self.reader.decode(bytes(image), fast=self.fast)
            if isinstance(image, np.ndarray):
                image = _as_image(image)
            if isinstance(image, Image.Image):
                return self.reader.cropped(image)
        # PIL's plug-ins raise nearly anything at a broken file.
        except Exception as error:
            name = f" ({visible(str(image))})" if isinstance(image, (str, Path)) else ""
            raise DatasetError(f"image {place}{name} cannot be used: {reason_of(error)}.") from None
        raise DatasetError(
            f"image {place} is {type(image).__name__}; expected a path, a PIL image, the bytes of an image file, or "
            f"pixels as a numpy array (H, W, 3) of uint8."
        )

    def texts(self, captions: Sequence[str]) -> list[str]:
        """What the encoder's tokenizer reads for captions: cleaned, and in the prompt."""
        return prompted(list(captions), prompt=self.prompt, cleaning=self.cleaning)

    def text_features(self, captions: Sequence[str], *, batch_size: int | None = None) -> torch.Tensor:
        """(n, D_t) on the backbone's device, encoded in batches of captions of one length, as extraction does.

        batch_size  the most at a time; None: all of a length
        """
        tokens, _ = self.backbone.tokenize(self.texts(captions))
        features = torch.empty(len(tokens), self.backbone.widths["text"], device=self.backbone.device)
        for places in batches_of_a_length([len(ids) for ids in tokens], batch_size=batch_size or len(tokens)):
            ids = self.backbone.pad([tokens[place] for place in places])
            encoded = among_others(self.backbone.encode_text, ids)
            features[torch.from_numpy(places).to(features.device)] = encoded.float()
        return features

    def image_features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """(n, D_i) on the backbone's device."""
        return self.pixel_features([self.crop(image) for image in images])

    def pixel_features(self, cropped: Sequence[Image.Image | np.ndarray]) -> torch.Tensor:
        """(n, D_i) of images of S x S."""
        pixels = np.stack([np.asarray(image) for image in cropped])
        return among_others(self.backbone.encode_image, torch.from_numpy(pixels))

    def stored(self, features: torch.Tensor) -> torch.Tensor:
        """Features in the type of the cache. Raises BackboneError when they are not finite in it."""
        rounded = features.to(self.dtype)
        broken = torch.nonzero(~rounded.isfinite().all(dim=1))[:, 0]
        if len(broken):
            raise BackboneError(
                f"the encoder {visible(self.backbone.name)} gives a feature that is not finite as "
                f"{str(self.dtype).removeprefix('torch.')}; use a cache of --dtype float32, or check the weights."
            )
        return rounded


def encoder_of(
    cache: FeatureCache,
    *,
    model: str | None = None,
    device: str = "cpu",
    precision: str | None = None,
    download_root: Path | None = None,
) -> CacheEncoder:
    """Load the encoder that a cache was extracted with.

    model      its name or path, if it is no longer where it was
    precision  as load_backbone takes it; None: the cache's, where the device has it

    Raises BackboneError, UsageError when its weights differ, and ExportError as require_encoder does.
    """
    require_encoder(cache)
    inputs = cache.inputs
    backbone = load_matching(
        model or cache.about["model"],
        inputs=inputs,
        cache=cache.path,
        model=cache.about["model"],
        device=device,
        precision=precision or _PRECISIONS.get(inputs["precision"], "auto"),
        download_root=download_root,
    )
    backbone.prepare()
    return CacheEncoder(
        backbone,
        background=inputs["background"],
        padded=inputs.get("pad_images", False),
        prompt=inputs["prompt"],
        cleaning=inputs["caption_clean"],
        fast=inputs["decode"] == FAST_DECODERS["cpu"],
        dtype=getattr(torch, cache.dtype.name),
    )


def require_one_encoder(cache: FeatureCache) -> None:
    """Raise ExportError for caches side by side, whose head stands behind several encoders."""
    if len(cache.members) > 1:
        raise ExportError(
            f"{cache.path} is {len(cache.members)} caches side by side, and a head of theirs cannot stand behind one "
            f"encoder; write the embeddings of its images and captions with clipret embed, or take a run on one cache."
        )


def require_encoder(cache: FeatureCache) -> None:
    """Raise ExportError when a cache does not say what its encoder was, or has several side by side."""
    require_one_encoder(cache)
    if cache.imported:
        raise ExportError(
            f"the features of {cache.path} were imported, and nothing says how an encoder made them; expected a cache "
            f"of clipret extract."
        )


def _as_image(pixels: np.ndarray) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"an array {pixels.shape} of {pixels.dtype}; expected pixels (H, W, 3) of uint8")
    return Image.fromarray(np.ascontiguousarray(pixels))
