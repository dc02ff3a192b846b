"""New images and captions -> features, as the extraction of a cache computed them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipret.backbones.matching import load_matching
from clipret.backbones.protocol import Backbone
from clipret.cache import FeatureCache
from clipret.config import ExtractConfig
from clipret.datasets.captions import prompted
from clipret.errors import ExportError
from clipret.images import on_white
from clipret.images.padding import crop_of


@dataclass(frozen=True)
class CacheEncoder:
    """The encoder of a cache, with the cache's settings of reading images and captions.

    backbone    as load_matching loads it
    background  behind transparent pixels: white, or clip
    padded      whether images are padded to squares
    prompt      of captions
    cleaning    of captions, one of CAPTION_CLEANINGS
    """

    backbone: Backbone
    background: str
    padded: bool
    prompt: str
    cleaning: str

    @property
    def crop(self) -> Callable[[Image.Image], Image.Image]:
        """PIL image -> PIL RGB image of S x S, as the backbone sees it."""
        crop = crop_of(self.backbone, padded=self.padded)
        return (lambda image: crop(on_white(image))) if self.background == "white" else crop

    def texts(self, captions: Sequence[str]) -> list[str]:
        """What the encoder's tokenizer reads for captions: cleaned, and in the prompt."""
        settings = ExtractConfig(dataset="emoji", prompt=self.prompt, caption_clean=self.cleaning)
        return prompted(list(captions), settings)

    def text_features(self, captions: Sequence[str]) -> torch.Tensor:
        """(n, D_t) on the backbone's device."""
        tokens, _ = self.backbone.tokenize(self.texts(captions))
        return self.backbone.encode_text(self.backbone.pad(tokens))

    def image_features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """(n, D_i) on the backbone's device."""
        return self.pixel_features([self.crop(image) for image in images])

    def pixel_features(self, cropped: Sequence[Image.Image]) -> torch.Tensor:
        """(n, D_i) of images of S x S."""
        pixels = np.stack([np.asarray(image) for image in cropped])
        return self.backbone.encode_image(torch.from_numpy(pixels))


def encoder_of(
    cache: FeatureCache,
    *,
    model: str | None = None,
    device: str = "cpu",
    precision: str = "auto",
    download_root: Path | None = None,
) -> CacheEncoder:
    """Load the encoder that a cache was extracted with.

    model  its name or path, if it is no longer where it was

    Raises BackboneError, UsageError when its weights differ, and ExportError when the cache does not say what it was.
    """
    if cache.imported:
        raise ExportError(
            f"the features of {cache.path} were imported, and nothing says how an encoder made them; expected a cache "
            f"of clipret extract."
        )
    backbone = load_matching(
        model or cache.about["model"],
        inputs=cache.inputs,
        cache=cache.path,
        model=cache.about["model"],
        device=device,
        precision=precision,
        download_root=download_root,
    )
    inputs = cache.inputs
    return CacheEncoder(
        backbone,
        background=inputs["background"],
        padded=inputs.get("pad_images", False),
        prompt=inputs["prompt"],
        cleaning=inputs["caption_clean"],
    )
