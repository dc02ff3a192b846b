"""Image files -> the pixels a backbone takes. Used by extraction alone, inside its worker processes."""

import io
import logging
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from clipret.datasets.base import split_container
from clipret.errors import DatasetError

NOT_FOUND = "file not found"
# Bytes of a reason, which the cache keeps in a column of fixed width.
_REASON_BYTES = 150
# Of a resized image: 400 MB in PIL. CLIP's resize of the short side makes a long line of any length out of a 1 px one.
_MOST_PIXELS = 100_000_000
# Errors of PIL whose text says all there is to say; the text of others, such as KeyError's, needs their name before it.
_TELLING = (OSError, SyntaxError, ValueError, EOFError, DatasetError)

# Some of PIL's plug-ins log what they dislike, and Python shows the warnings of a library without a handler on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class ImageBatches(Dataset):
    """Batches of preprocessed images, cut by row number: item b holds the rows of batches[b].

    An image that cannot be read leaves zeros in its place, and so does one that need not be read, so that a batch has
    the same shape, and the other rows the same bits, whatever is wrong with their neighbours.
    """

    def __init__(
        self,
        files: list[str],
        *,
        root: Path,
        preprocess: Callable,
        background: str,
        side: int,
        batches: list[range],
        todo: np.ndarray,
    ):
        """files: of all rows, relative to root; side: S of (3, S, S); todo: (N,) bool, the rows to read."""
        self._files = files
        self._root = root
        self._preprocess = preprocess
        self._background = background
        self._side = side
        self._batches = batches
        self._todo = todo

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, dict[int, str]]:
        """First row, pixels (B, 3, S, S) float32, and position -> reason for the images that cannot be read."""
        rows = self._batches[index]
        pixels = torch.zeros(len(rows), 3, self._side, self._side)
        problems = {}
        for position, row in enumerate(rows):
            if not self._todo[row]:
                continue
            try:
                with open_image(self._files[row], root=self._root) as image:
                    _require_resizable(image.size, self._side)
                    pixels[position] = self._preprocess(on_white(image) if self._background == "white" else image)
            # PIL's plug-ins raise nearly anything at a broken file, struct.error and KeyError among them.
            except Exception as error:
                problems[position] = reason_of(error)
        return rows.start, pixels, problems


@contextmanager
def open_image(name: str, *, root: Path) -> Iterator[Image.Image]:
    """Open an image file of a data set, without decoding it yet, and keep its warnings from the screen meanwhile.

    name  path relative to root, or FILE.tar/MEMBER, as in datasets.RetrievalDataset

    Raises OSError when there is no such file or it is empty, and whatever PIL raises for a file that is no image.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _stream(name, root) as stream:
            if not stream.read(1):
                raise OSError("empty file")
            stream.seek(0)
            with Image.open(stream) as image:
                yield image


def on_white(image: Image.Image) -> Image.Image:
    """The image with its transparency painted over white; the image itself when it has none."""
    image.load()
    one_colour = "transparency" in image.info and image.mode in ("1", "L", "RGB", "P")
    if not one_colour and image.mode not in ("RGBA", "LA", "PA", "RGBa"):
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def reason_of(error: Exception) -> str:
    """Why an image cannot be read: one line of at most 150 bytes, without control characters."""
    text = "".join(letter if letter.isprintable() else " " for letter in _told(error))
    return " ".join(text.split()).encode()[:_REASON_BYTES].decode(errors="ignore")


def _told(error: Exception) -> str:
    known = {
        FileNotFoundError: NOT_FOUND,
        PermissionError: "permission denied",
        MemoryError: "not enough memory to decode",
        UnidentifiedImageError: "not an image that PIL knows",
    }
    for kind, text in known.items():
        if isinstance(error, kind):
            return text
    text = getattr(error, "strerror", None) or str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: {text.partition(', could')[0]}"
    if text.startswith("image file is truncated") or text == "Truncated File Read":
        return "truncated file"
    return text if text and isinstance(error, _TELLING) else f"{type(error).__name__}: {text}"


def _stream(name: str, root: Path) -> BinaryIO:
    container, member = split_container(name)
    if container.endswith(".tar"):
        from clipret.datasets.shards import read_member

        try:
            return io.BytesIO(read_member(root / container, member))
        except KeyError as error:
            raise FileNotFoundError(name) from error
    path = root / name
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise OSError("a folder, not a file")
    # Opening a pipe would wait for its writer, and a device may never end.
    if not stat.S_ISREG(mode):
        raise OSError("not a regular file")
    return path.open("rb")


def _require_resizable(size: tuple[int, int], side: int) -> None:
    """Raise ValueError when the short side resized to `side` would make an image too large for any memory."""
    scaled = [side * length // max(1, min(size)) for length in size]
    if scaled[0] * scaled[1] > _MOST_PIXELS:
        width, height = size
        raise ValueError(f"too elongated: {width}x{height} would be resized to {scaled[0]}x{scaled[1]}")
