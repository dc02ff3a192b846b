"""Image processors of transformers: images -> pixels as a model's own prepares them. Shape suffix: S image side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clipret.backbones.hf_files import LOCAL, Source, library_version
from clipret.backbones.loading import explained
from clipret.backbones.pixels import describe_statistics
from clipret.backbones.sizes import require_sides, require_statistics
from clipret.errors import BackboneError
from clipret.machine.records import Maybe, RecordError, read_record

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
# Width and height: on their side and upright, odd and even, small and large.
_PROBES = ((97, 61), (40, 83), (640, 427), (375, 500))
# Settings of some classes that are not of resizing, cropping or normalising, for the words.
_FURTHER = ("crop_pct", "do_flip_channel_order", "do_reduce_labels", "include_top", "rescale_offset")
# Largest difference of normalised pixels from the processor's own.
_TOLERANCE = 1e-4


class Pixels(NamedTuple):
    """How images become pixels: crop, side, mean and std as of an ImageSide; and the whole in words."""

    crop: Callable[[Image.Image], Image.Image]
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    words: str


@dataclass(frozen=True)
class LibraryCrop:
    """PIL image -> PIL RGB image, by a processor of transformers. Can be pickled.

    converts  whether the processor itself makes images of other modes RGB
    """

    processor: Any
    converts: bool

    def __call__(self, image: Image.Image) -> Image.Image:
        """What the processor does before it rescales and normalises, rounded to whole numbers."""
        image = image if self.converts else image.convert("RGB")
        values = self.processor(images=image, do_rescale=False, do_normalize=False, return_tensors="pt")
        pixels = values["pixel_values"][0].permute(1, 2, 0).numpy()
        pixels = pixels if pixels.dtype == np.uint8 else pixels.round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(pixels))


@dataclass(frozen=True)
class PlainCrop:
    """What LibraryCrop does where it only resizes and crops, without its detours through arrays. Can be pickled.

    shortest  the shorter side after the resize; None: `size` is both
    size      width and height after the resize
    resample  of PIL
    crop      width and height of what is cut out of the middle; None: nothing
    white     whether what is transparent becomes white, as with transformers 5, or whatever colour it has, as with 4
    """

    shortest: int | None
    size: tuple[int, int] | None
    resample: int
    crop: tuple[int, int] | None
    white: bool

    def __call__(self, image: Image.Image) -> Image.Image:
        size = self.size
        if self.shortest is not None:
            short, long = sorted(image.size)
            # Rounded down, and so is the corner below; torchvision rounds that to the nearest.
            other = int(self.shortest * long / short)
            size = (self.shortest, other) if image.width <= image.height else (other, self.shortest)
        if self.white and ("A" in image.getbands() or image.info.get("transparency") is not None):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (255,) * 4), image)
        image = image.convert("RGB").resize(size, self.resample)
        if self.crop is None:
            return image
        left, top = ((have - want) // 2 for have, want in zip(size, self.crop, strict=True))
        return image.crop((left, top, left + self.crop[0], top + self.crop[1]))


def load_pixels(source: Source, *, side: int | None) -> Pixels:
    """The preprocessing of a folder; its crop and statistics make the pixels that the processor itself makes.

    side  of the images that the model takes; None: any

    Raises BackboneError where the folder has no processor, or one whose pixels cannot be made from a crop of bytes.
    """
    _require_processor(source)
    with explained("transformers", source.name):
        import transformers

        # Of PIL, whatever else is installed: others resize to other pixels.
        newer = int(transformers.__version__.split(".")[0]) >= 5
        backend = {"backend": "pil"} if newer else {"use_fast": False}
        processor = transformers.AutoImageProcessor.from_pretrained(source.folder, **LOCAL, **backend)
    settings = processor.to_dict()
    require_sides(settings, name=source.name)
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1
    if abs(factor * 255 - 1) > 1e-6:
        raise BackboneError(
            f"the preprocessing of {source.name} multiplies pixels by {factor:.6g}; clipret supports 1/255 only: "
            f"do_rescale true and rescale_factor 0.00392156862745098 in {PROCESSOR_FILES[0]}."
        )
    with explained("transformers", source.name):
        crop, white = _crop(processor, settings=settings, side=side, name=source.name)
        normalises = settings.get("do_normalize", True)
        mean, std = (
            tuple(np.broadcast_to(settings[f"image_{name}"] if normalises else plain, 3).tolist())
            for name, plain in (("mean", 0.0), ("std", 1.0))
        )
        require_statistics(mean, std, name=source.name)
        _require_equal(processor, crop=crop, mean=mean, std=std, name=source.name)
    side = crop(Image.new("RGB", _PROBES[0])).width
    steps = ", ".join([f"{side} px", *(["transparency on white"] if white else []), *_described(settings)])
    kind = settings.get("image_processor_type", type(processor).__name__)
    return Pixels(crop, side, mean, std, f"{steps}, {describe_statistics(mean, std)} ({kind})")


def _crop(processor: Any, *, settings: dict, side: int | None, name: str) -> tuple[Callable, bool]:
    """The processor's crop: ours, if its pixels are the same on images of several sizes, or its own; and whether
    what is transparent becomes white.
    """
    theirs = LibraryCrop(processor, bool(settings.get("do_convert_rgb")))
    clear = theirs(Image.new("RGBA", (99, 99)))
    white = clear.getpixel((clear.width // 2, clear.height // 2)) == (255,) * 3
    ours = _plain_crop(settings, white=white)
    images = _probes("RGBA")
    images += [image.convert(mode) for image, mode in zip(images, ("RGB", "L", "P", "LA"), strict=True)]
    expected = [theirs(image) for image in images]
    for image in expected:
        if image.size != (side or expected[0].height,) * 2:
            wanted = f"{side} x {side}" if side else "squares of one size"
            raise BackboneError(
                f"the preprocessing of {name} makes images of {image.width} x {image.height} pixels "
                f"({PROCESSOR_FILES[0]}); its model takes {wanted}."
            )
    same = ours is not None and [ours(image) for image in images] == expected
    return (ours if same else theirs), white


def _require_equal(processor: Any, *, crop: Callable, mean: tuple, std: tuple, name: str) -> None:
    """Raise BackboneError unless a crop, rescaled and normalised, is what the processor makes of several images."""
    for image in _probes("RGB"):
        ours = ((np.asarray(crop(image)) / 255 - mean) / std).transpose(2, 0, 1)
        theirs = np.asarray(processor(images=image, return_tensors="pt")["pixel_values"][0])
        error = np.abs(ours - theirs).max() if ours.shape == theirs.shape else np.inf
        if not error <= _TOLERANCE:
            raise BackboneError(
                f"the preprocessing of {name}, a {type(processor).__name__}, does more than to resize, crop, rescale "
                f"and normalise, which clipret does not support: pixels differ by {error:.1e}."
            )


def _probes(mode: str) -> list[Image.Image]:
    """Noise of several shapes."""
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (height, width, len(mode)), np.uint8)) for width, height in _PROBES
    ]


def _plain_crop(settings: dict, *, white: bool) -> PlainCrop | None:
    """Of a processor that resizes, to no less than the crop; None for others."""
    size, crop = (settings.get(name) or {} for name in ("size", "crop_size"))
    cut = (crop.get("width"), crop.get("height")) if settings.get("do_center_crop") else None
    if set(size) == {"shortest_edge"}:
        shortest, both = size["shortest_edge"], None
    elif set(size) == {"height", "width"}:
        shortest, both = None, (size["width"], size["height"])
    else:
        return None
    least = (shortest, shortest) if shortest else both
    if not settings.get("do_resize") or settings.get("do_pad"):
        return None
    if cut and (None in cut or cut[0] > least[0] or cut[1] > least[1]):
        return None
    return PlainCrop(shortest, both, settings["resample"], cut, white)


def _require_processor(source: Source) -> None:
    """Raise BackboneError where a folder has no processor, or one of a class that transformers does not have."""
    if not any((source.folder / name).is_file() for name in PROCESSOR_FILES):
        raise BackboneError(f"{source.folder} does not say how images are prepared; expected {PROCESSOR_FILES[0]}.")
    path = source.folder / PROCESSOR_FILES[0]
    if not path.is_file():
        return
    try:
        settings = read_record(path, {"image_processor_type": Maybe((str, None))})
    except (OSError, RecordError) as error:
        raise BackboneError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from None
    kind = settings.get("image_processor_type")
    if kind:
        import transformers

        if not hasattr(transformers, kind) and not hasattr(transformers, kind.removesuffix("Fast")):
            raise BackboneError(
                f"the images of {source.name} are prepared by a {kind}, which {library_version()} does not have; code "
                f"of the folder's own is not run. Expected such as CLIPImageProcessor."
            )


def _described(settings: dict) -> list[str]:
    """Resizing and cropping, in words."""
    steps = []
    if settings.get("do_resize"):
        size = {name: value for name, value in settings["size"].items() if value}
        if set(size) == {"height", "width"}:
            steps += [f"squash to {size['height']} x {size['width']}"]
        else:
            names = {"shortest_edge": "shortest side", "longest_edge": "longest side"}
            steps += [f"{names.get(name, name)} to {value}" for name, value in size.items()]
        steps += [Image.Resampling(settings["resample"]).name.lower()]
    if settings.get("do_center_crop"):
        steps += [f"centre crop {settings['crop_size']['height']}"]
    if settings.get("do_pad"):
        steps += ["padded"]
    return steps + [f"{name} {settings[name]}" for name in _FURTHER if settings.get(name)]
