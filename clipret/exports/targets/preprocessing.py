"""How the images of a model in our own towers become pixels, in terms that every library's config has."""

from pathlib import Path
from typing import Any, NamedTuple

from PIL.Image import Resampling

from clipret.backbones.hf_files import LOCAL
from clipret.backbones.openai import OpenAIClip

SHORTEST, SQUASH = "shortest", "squash"
# As in clip's own transform.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


class Preprocessing(NamedTuple):
    """How an image becomes pixels.

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
    if backbone.origin is None:
        return openai_preprocessing(backbone.image_side)
    normalise = backbone.preprocess.transforms[-1]
    statistics = tuple(normalise.mean), tuple(normalise.std)
    if backbone.origin.preprocess:
        mode, interpolation = (backbone.origin.preprocess[name] for name in ("resize_mode", "interpolation"))
        return (
            Preprocessing(backbone.image_side, mode, interpolation, *statistics) if mode in (SHORTEST, SQUASH) else None
        )
    resized = _hf_resize(backbone.origin.folder, side=backbone.image_side)
    return resized and Preprocessing(backbone.image_side, *resized, *statistics)


def _hf_resize(folder: Path, *, side: int) -> tuple[str, str] | None:
    """Mode and interpolation of a folder's image processor; None: it does more."""
    import transformers

    settings: dict[str, Any] = transformers.AutoImageProcessor.from_pretrained(folder, **LOCAL).to_dict()
    size, crop = (
        {name: value for name, value in dict(settings.get(field) or {}).items() if value is not None}
        for field in ("size", "crop_size")
    )
    square = {"height": side, "width": side}
    if not settings.get("do_resize") or settings.get("do_pad"):
        return None
    interpolation = Resampling(int(settings["resample"])).name.lower()
    if size == {"shortest_edge": side} and settings.get("do_center_crop") and crop == square:
        return SHORTEST, interpolation
    if size == square and (not settings.get("do_center_crop") or crop == square):
        return SQUASH, interpolation
    return None
