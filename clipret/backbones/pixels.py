"""clip's own transform in two parts: the crop of images, and the values of pixels.

Shape suffixes: B batch, S image side.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from clipret.backbones.clip_package import ClipFirst, library_version
from clipret.errors import BackboneError

# How the words for a transform go on, after the number of pixels, whose resize and crop are clip's.
CLIP_RESIZE = "px, shortest, bicubic"


class Crop:
    """clip's transform without its last two steps: PIL image -> PIL RGB image of S x S. Can be pickled."""

    def __init__(self, steps: list[Callable]):
        self._transform = Compose(steps)

    @property
    def steps(self) -> list[Callable]:
        """Of the transform, in order."""
        return self._transform.transforms

    def __call__(self, image: Image.Image) -> Image.Image:
        return self._transform(image)

    def __reduce__(self):
        return _restore_crop, (ClipFirst(), self.steps)


def _restore_crop(_, steps: list[Callable]) -> Crop:
    return Crop(steps)


def split_transform(preprocess: Callable, *, name: str) -> tuple[Crop, list[Callable]]:
    """clip's transform as its crop and its last two steps; raises BackboneError when those are not as expected."""
    steps = list(getattr(preprocess, "transforms", ()))
    if [type(step) for step in steps[-2:]] != [ToTensor, Normalize]:
        names = ", ".join(type(step).__name__ for step in steps[-2:]) or type(preprocess).__name__
        raise BackboneError(
            f"the preprocessing of {name} ends with {names}, not with ToTensor, Normalize; "
            f"clipret does not support this version of clip ({library_version()})."
        )
    return Crop(steps[:-2]), steps[-2:]


def colour_of(mean: Sequence[float]) -> tuple[int, int, int]:
    """The colour nearest to a mean of pixels from 0 to 1."""
    red, green, blue = (round(255 * float(value)) for value in mean)
    return red, green, blue


def describe_statistics(mean: Sequence[float], std: Sequence[float]) -> str:
    """A normalisation in words: mean 0.5/0.5/0.5, std 0.5/0.5/0.5."""
    mean, std = ("/".join(f"{value:.6g}" for value in values) for values in (mean, std))
    return f"mean {mean}, std {std}"


class Normaliser:
    """uint8 pixels -> the float32 values of clip's ToTensor and Normalize, bit for bit, on any device."""

    def __init__(self, steps: list[Callable], *, device: torch.device):
        """steps: clip's own last two."""
        values = np.arange(256, dtype=np.uint8)
        picture = Image.fromarray(np.repeat(values[:, None, None], 3, axis=2))
        for step in steps:
            picture = step(picture)
        # (3, 256): clip's float for every value of a channel.
        table = picture[:, :, 0]
        self._table = table.reshape(-1).contiguous().to(device)
        self._offsets = torch.arange(3, dtype=torch.int32, device=device) * 256
        self._mean, self._std = (
            torch.as_tensor(part, dtype=torch.float32, device=device) for part in (steps[1].mean, steps[1].std)
        )
        # Arithmetic is four times as fast as the table on a CPU. CUDA multiplies by 1 / 255, which may differ in a bit.
        repeated = torch.from_numpy(np.repeat(values, 3)).to(device)
        self._arithmetic = torch.equal(self._computed(repeated), table.T.reshape(-1).to(device))

    def __call__(self, interleaved: torch.Tensor) -> torch.Tensor:
        """(..., 3n) uint8, channels fastest -> the same shape in float32."""
        return self._computed(interleaved) if self._arithmetic else self._looked_up(interleaved)

    def _computed(self, interleaved: torch.Tensor) -> torch.Tensor:
        times = interleaved.shape[-1] // 3
        return interleaved.float().div_(255).sub_(self._mean.repeat(times)).div_(self._std.repeat(times))

    def _looked_up(self, interleaved: torch.Tensor) -> torch.Tensor:
        index = interleaved.int() + self._offsets.repeat(interleaved.shape[-1] // 3)
        return self._table.index_select(0, index.reshape(-1)).view(interleaved.shape)
