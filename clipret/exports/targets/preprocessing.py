"""An encoder's preprocessing of images in a form that other programs can follow. Shape suffix: S image side."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from clipret.backbones.library import LibraryBackbone
from clipret.backbones.openai import OpenAIClip
from clipret.backbones.pixels import Crop
from clipret.backbones.processors import PlainCrop
from clipret.exports.encoder import CacheEncoder

SHORTEST, SQUASH = "shortest", "squash"
# As in clip's own transform.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK")
# Width and height: on their side and upright, odd and even, with and without a half pixel, small and large.
_SHAPES = ((97, 61), (40, 83), (640, 427), (375, 500), (72, 72))


class Preprocessing(NamedTuple):
    """How an image becomes pixels, in terms that the configs of other libraries have.

    side           height and width of the pixels
    mode           shortest: the shorter side becomes `side`, and the middle is cut out. squash: both sides become it
    interpolation  of PIL, in lower case
    mean, std      of the three channels
    """

    side: int
    mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def openai_preprocessing(side: int) -> Preprocessing:
    """OpenAI's, of models for images of this size."""
    return Preprocessing(side, SHORTEST, "bicubic", _MEAN, _STD)


def preprocessing_of(backbone: OpenAIClip) -> Preprocessing | None:
    """The model's, whichever library it came from; None: it is more than to resize, crop and normalise."""
    steps, side = _steps(backbone.crop), backbone.image_side
    # Of transparency no config of another library says anything.
    if steps is None or "fill" in steps:
        return None
    resize = steps["resize"]
    modes = {("shortest", str(side)): SHORTEST, ("both", str([side, side])): SQUASH}
    mode = modes.get((resize["to"], str(resize["size"])))
    mean, std = _statistics(backbone)
    return mode and Preprocessing(side, mode, resize["interpolation"], tuple(mean), tuple(std))


def describe_images(encoder: CacheEncoder) -> dict[str, Any] | None:
    """What is done to an image before the encoder sees it; None: something that these words cannot say.

    size            S
    background      white, behind what is transparent; None: transparency is dropped
    pad_to_square   the colour of borders that make the image a square first; None: there are none
    convert_to_rgb  first, or last: after resize and crop
    resize          to (shortest or longest side, or both), size, interpolation (as of PIL)
    crop            how the middle is found: nearest or down
    fill            the value, in every band of the image's mode, of borders that make it S x S; None: there are none
    mean, std       of pixels from 0 to 1
    """
    backbone = encoder.backbone
    steps = _steps(backbone.crop)
    if steps is None:
        return None
    mean, std = _statistics(backbone)
    about = {
        "size": backbone.image_side,
        "background": None,
        "pad_to_square": list(backbone.mean_colour) if encoder.padded else None,
        "fill": None,
        "mean": mean,
        "std": std,
        **steps,
    }
    if encoder.background == "white":
        about["background"] = "white"
    return about


def is_described(about: dict[str, Any], *, crop: Callable, by: Callable) -> bool:
    """Whether a description says how images are cropped, for images of several modes and shapes.

    crop  PIL image -> PIL RGB image of S x S
    by    PIL image and description -> the same, by the description alone
    """
    return all(np.array_equal(crop(image), by(image, about)) for image in _probes())


def _steps(crop: Callable) -> dict[str, Any] | None:
    """convert_to_rgb, resize, crop and perhaps background and fill of a crop; None: it is none of these."""
    if isinstance(crop, PlainCrop):
        to = ("shortest", crop.shortest) if crop.shortest is not None else ("both", list(crop.size))
        return {
            "convert_to_rgb": "first",
            "background": "white" if crop.white else None,
            "resize": _resize(*to, interpolation=Image.Resampling(crop.resample).name),
            "crop": "down",
        }
    if not isinstance(crop, Crop | Compose):
        return None
    transforms = crop.steps if isinstance(crop, Crop) else crop.transforms
    return _steps(transforms[0]) if len(transforms) == 1 else _library_steps(transforms)


def _library_steps(transforms: list[Callable]) -> dict[str, Any] | None:
    """Of torchvision's steps, and those of open_clip and timm that they have beside them."""
    kinds = [type(step).__name__ for step in transforms]
    converts = [place for place, kind in enumerate(kinds) if kind in ("function", "MaybeConvertMode")]
    resizes = [step for step in transforms if isinstance(step, Resize) or type(step).__name__ == "ResizeKeepRatio"]
    if not converts or len(resizes) != 1:
        return None
    resize = resizes[0]
    size = [resize.size] if isinstance(resize.size, int) else list(resize.size)
    if hasattr(resize, "longest"):
        to = ("longest" if resize.longest == 1 else "shortest", max(size))
    else:
        to = ("shortest", size[0]) if len(size) == 1 else ("both", size[::-1])
    fills = [step.fill for step in transforms if type(step).__name__ == "CenterCropOrPad"]
    cuts = bool(fills) or any(isinstance(step, CenterCrop) for step in transforms)
    return {
        "convert_to_rgb": "first" if converts[0] == 0 else "last",
        "resize": _resize(*to, interpolation=str(getattr(resize.interpolation, "value", resize.interpolation))),
        "crop": "nearest" if cuts else "down",
        **({"fill": fills[0]} if fills else {}),
    }


def _resize(to: str, size: int | list[int], *, interpolation: str) -> dict[str, Any]:
    return {"to": to, "size": size, "interpolation": interpolation.lower()}


def _statistics(backbone: Any) -> tuple[list[float], list[float]]:
    if isinstance(backbone, LibraryBackbone):
        return list(backbone.image.mean), list(backbone.image.std)
    normalise = backbone.preprocess.transforms[-1]
    return [float(value) for value in normalise.mean], [float(value) for value in normalise.std]


def _probes() -> list[Image.Image]:
    """Noise of several shapes and modes."""
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (height, width, 4), np.uint8)).convert("RGBA").convert(mode)
        for width, height in _SHAPES
        for mode in _MODES
    ]
