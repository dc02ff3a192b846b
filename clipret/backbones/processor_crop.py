"""Image processors of transformers as crops: all that they do before they rescale and normalise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clipret.backbones.sizes import require_sides
from clipret.backbones.unimodal import calm, numbers, rgb
from clipret.errors import BackboneError

_TO_UNIT = 1 / 255
# Two shapes of images, which become the same if the processor makes squares of all.
_PROBES = ((97, 64), (64, 97))


@dataclass(frozen=True, eq=False)
class ProcessorCrop:
    """PIL image -> PIL RGB image of S x S, as an image processor of transformers has it. Can be pickled."""

    processor: Any

    @property
    def converts(self) -> bool:
        """Whether the processor itself makes images of other modes RGB, and then what is transparent white."""
        return bool(getattr(self.processor, "do_convert_rgb", False))

    def __call__(self, image: Image.Image) -> Image.Image:
        """The processor's own resize and crop, to whole numbers as it rounds them."""
        image = image if self.converts else rgb(image)
        values = self.processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")
        pixels = values["pixel_values"][0].permute(1, 2, 0).numpy()
        return Image.fromarray(pixels if pixels.dtype == np.uint8 else pixels.round().clip(0, 255).astype(np.uint8))


class Processing(NamedTuple):
    """What a model's image processor does.

    crop        PIL image -> PIL RGB image of S x S
    side        S
    mean, std   of the three channels
    described   all of it, in words
    """

    crop: ProcessorCrop
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    described: str


def read_processing(folder: Path, *, name: str) -> Processing:
    """The processing of a model's folder. Raises BackboneError where it is none that clipret can repeat."""
    if not (folder / "preprocessor_config.json").is_file() and not (folder / "processor_config.json").is_file():
        raise BackboneError(f"{folder} has no preprocessor_config.json, which says how images become pixels; add it.")
    with calm("transformers", f"the image processor of {name}"):
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        require_sides(processor.to_dict(), name=name)
        crop = ProcessorCrop(processor)
        sizes = {crop(Image.new("RGB", size)).size for size in _PROBES}
    if len(sizes) > 1 or len(set(next(iter(sizes)))) > 1:
        shapes = " and ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise BackboneError(
            f"the image processor of {name} makes images of {shapes}; expected squares of one size: give "
            f"preprocessor_config.json a size with height and width, or do_center_crop with a crop_size."
        )
    rescales = getattr(processor, "do_rescale", True)
    if not rescales or abs(processor.rescale_factor - _TO_UNIT) > 1e-9:
        factor = processor.rescale_factor if rescales else 1
        raise BackboneError(f"the image processor of {name} multiplies pixels by {factor:g}; expected 1/255.")
    normalises = getattr(processor, "do_normalize", True)
    mean, std = (
        tuple(np.broadcast_to(np.asarray(values, dtype=float), 3).tolist()) if normalises else (plain,) * 3
        for values, plain in ((processor.image_mean, 0.0), (processor.image_std, 1.0))
    )
    side = next(iter(sizes))[0]
    white = crop(Image.new("RGBA", _PROBES[0])).getpixel((side // 2, side // 2)) == (255,) * 3
    return Processing(crop, side, mean, std, _described(processor, side=side, white=white, mean=mean, std=std))


def _described(processor: Any, *, side: int, white: bool, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    parts = [f"{side} px", type(processor).__name__, *(["transparency on white"] if white else [])]
    for name in ("size", "crop_size"):
        sizes = dict(getattr(processor, name, None) or {})
        words = ", ".join(f"{key} {value}" for key, value in sizes.items() if value is not None)
        if words:
            parts.append(f"{name} {words}")
    return f"{', '.join(parts)}, resample {int(processor.resample or 0)}, mean {numbers(mean)}, std {numbers(std)}"
