"""Image files -> the pixels a backbone takes. Used by extraction alone, inside its worker processes."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

_TRANSPARENT_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


class ImageBatches(Dataset):
    """Batches of preprocessed images, cut by row number: item b holds rows b * batch_size and following.

    An image that cannot be read leaves zeros in its place, so that a batch has the same shape, and the other rows the
    same bits, whatever is wrong with its neighbours.
    """

    def __init__(
        self, files: list[str], *, root: Path, preprocess: Callable, background: str, side: int, batches: list
    ):
        """files: of all rows, relative to root; side: S of (3, S, S); batches: ranges of rows, one an item."""
        self._files = files
        self._root = root
        self._preprocess = preprocess
        self._background = background
        self._side = side
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, dict[int, str]]:
        """First row, pixels (B, 3, S, S) float32, and position -> reason for the images that cannot be read."""
        rows = self._batches[index]
        pixels = torch.zeros(len(rows), 3, self._side, self._side)
        problems = {}
        for position, row in enumerate(rows):
            try:
                pixels[position] = self._preprocess(
                    open_image(self._root / self._files[row], background=self._background)
                )
            except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
                problems[position] = _reason(error)
        return rows.start, pixels, problems


def open_image(path: Path, *, background: str) -> Image.Image:
    """Open and decode an image file.

    background  clip: leave transparency to clip's own transform, which drops it; white: paint it over white first

    Raises what PIL raises for files that are missing, truncated or no images.
    """
    with Image.open(path) as image:
        image.load()
        if background == "white" and (image.mode in _TRANSPARENT_MODES or "transparency" in image.info):
            layer = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
        return image.copy()


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "file not found"
    if isinstance(error, UnidentifiedImageError):
        return "not an image that PIL knows"
    return f"{type(error).__name__}: {error}".splitlines()[0]
