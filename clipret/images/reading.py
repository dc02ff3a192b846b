"""Images of a data set, opened, painted on white where asked, and cropped: exactly clip's pixels, before its floats."""

import contextlib
import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from clipret.images.files import READ_ATTEMPTS, read_file, reason_of
from clipret.machine.workers import ReadWatch

# Of a resized image: 400 MB in PIL. CLIP's resize of the short side makes a long line of any length out of a 1 px one.
_MOST_PIXELS = 100_000_000
# PIL's names of JPEG: alone, or the first of several pictures in one file, as some cameras write them.
_JPEG = ("JPEG", "MPO")

# Some of PIL's plug-ins log what they dislike, and Python shows the warnings of a library without a handler on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class Encoded(NamedTuple):
    """A batch of B images for a device to decode. Few tensors, as each costs a file descriptor between processes.

    size       B
    stream     (bytes,) uint8, the JPEG files that a device can decode, one after another
    jpegs      position in the batch, bytes and pixels of each of these files
    pixels     (K, side, side, 3) uint8, the images of other files, decoded
    decoded    position in the batch of each of the K
    """

    size: int
    stream: torch.Tensor
    jpegs: list[tuple[int, int, int]]
    pixels: torch.Tensor
    decoded: list[int]


@dataclass(frozen=True)
class ImageReader:
    """Reads rows of a data set's images as pixels. Can be pickled, if `crop` can.

    files       N paths relative to root, as in datasets.RetrievalDataset
    root        folder that they are relative to
    crop        PIL image -> PIL RGB image of side x side: clip's own transform up to ToTensor and Normalize
    background  `white` behind transparent pixels, or `clip` for whatever crop makes of them
    side        pixels
    fast        decode JPEG files at a half, a quarter or an eighth of their size where that is still no smaller than
                side; the pixels differ a little from clip's
    attempts    how often a read error that may pass is met before the image is given up
    watch       where the row that is being read is noted
    """

    files: Sequence[str]
    root: Path
    crop: Callable[[Image.Image], Image.Image]
    background: str
    side: int
    fast: bool = False
    attempts: int = READ_ATTEMPTS
    watch: ReadWatch | None = None

    def read(self, rows: Sequence[int]) -> tuple[torch.Tensor, dict[int, str], np.ndarray, np.ndarray]:
        """Pixels (B, side, side, 3) uint8 of B rows; position -> reason for the images that cannot be read; (B, 32)
        uint8, the sha256 of their files' bytes; and (B,) bool, which are of more bits than eight and become plain.

        rows  B rows; a negative one stands for an image that need not be read

        What cannot or need not be read leaves zeros in its place, so that a batch has the same shape, and the other
        rows the same bits, whatever is wrong with their neighbours.
        """
        pixels, problems = torch.zeros(len(rows), self.side, self.side, 3, dtype=torch.uint8), {}
        places, digests, plain = pixels.numpy(), no_digests(len(rows)), np.zeros(len(rows), dtype=bool)
        for position, row in _asked_for(rows):
            with self._noting(row), _reason_into(problems, position):
                content = self._bytes(row, digest=digests[position])
                places[position], plain[position] = self._decoded(content, fast=self.fast)
        return pixels, problems, digests, plain

    def read_encoded(self, rows: Sequence[int]) -> tuple[Encoded, dict[int, str], np.ndarray, np.ndarray]:
        """As `read`, but for `decode_on_device`: JPEG files as they are, and other files decoded exactly."""
        streams, jpegs, images, decoded, problems = [], [], [], [], {}
        digests, plain = no_digests(len(rows)), np.zeros(len(rows), dtype=bool)
        for position, row in _asked_for(rows):
            with self._noting(row), _reason_into(problems, position):
                content = self._bytes(row, digest=digests[position])
                area = _area_of_plain_jpeg(content, side=self.side)
                if area:
                    streams.append(np.frombuffer(content, dtype=np.uint8))
                    jpegs.append((position, len(content), area))
                else:
                    pixels, plain[position] = self._decoded(content)
                    images.append(pixels)
                    decoded.append(position)
        none = np.zeros((0, self.side, self.side, 3), dtype=np.uint8)
        encoded = Encoded(
            size=len(rows),
            stream=torch.from_numpy(np.concatenate([none.reshape(-1), *streams])),
            jpegs=jpegs,
            pixels=torch.from_numpy(np.stack(images) if images else none),
            decoded=decoded,
        )
        return encoded, problems, digests, plain

    def decode(self, content: bytes, *, fast: bool = False) -> np.ndarray:
        """(side, side, 3) uint8 of an image file's bytes: clip's pixels, nearly so where `fast`. Raises as PIL does."""
        return self._decoded(content, fast=fast)[0]

    def cropped(self, image: Image.Image) -> np.ndarray:
        """(side, side, 3) uint8 of an opened image. Raises ValueError when it is too elongated, and as PIL does."""
        _require_resizable(image.size, self.side)
        return np.asarray(self.crop(on_white(image) if self.background == "white" else image))

    def _decoded(self, content: bytes, *, fast: bool = False) -> tuple[np.ndarray, bool]:
        with opened(content) as image:
            _require_resizable(image.size, self.side)
            if fast and image.format in _JPEG:
                image.draft(None, (self.side, self.side))
            return self.cropped(image), becomes_plain(image)

    def _bytes(self, row: int, *, digest: np.ndarray) -> bytes:
        """A file's bytes; their sha256 is put into digest (32,)."""
        content = read_file(self.files[row], root=self.root, attempts=self.attempts)
        digest[:] = np.frombuffer(hashlib.sha256(content).digest(), dtype=np.uint8)
        return content

    def _noting(self, row: int) -> contextlib.AbstractContextManager:
        return self.watch.reading(row) if self.watch else contextlib.nullcontext()


def no_digests(count: int) -> np.ndarray:
    """(count, 32) uint8 zeros: of files whose bytes are not known."""
    return np.zeros((count, hashlib.sha256().digest_size), dtype=np.uint8)


def of_single_colour(pixels: torch.Tensor) -> torch.Tensor:
    """(B,) bool, where pixels (B, H, W, 3) are: of which images all pixels are equal."""
    values = pixels.flatten(1)
    return (values[:, 3:] == values[:, :-3]).all(dim=1)


def is_deep(image: Image.Image) -> bool:
    """Whether it has more than eight bits a channel, as PIL keeps them: whole numbers of 16 or 32 bits, or floats."""
    return image.mode.startswith(("I", "F"))


def becomes_plain(image: Image.Image) -> bool:
    """Whether an image of more than eight bits is of a single colour once it is converted to eight, as clip does it.

    clip converts after resizing, which goes a little beyond an image's own values and may leave specks of others.
    """
    return is_deep(image) and all(low == high for low, high in image.convert("RGB").getextrema())


def on_white(image: Image.Image) -> Image.Image:
    """The image with its transparency painted over white; the image itself when it has none."""
    image.load()
    one_colour = "transparency" in image.info and image.mode in ("1", "L", "RGB", "P")
    if not one_colour and image.mode not in ("RGBA", "LA", "PA", "RGBa"):
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


@contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """An image file's bytes as PIL opens them, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            yield image


@contextmanager
def _reason_into(problems: dict[int, str], position: int) -> Iterator[None]:
    try:
        yield
    # PIL's plug-ins raise nearly anything at a broken file, struct.error and KeyError among them.
    except Exception as error:
        problems[position] = reason_of(error)


def _asked_for(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    return ((position, int(row)) for position, row in enumerate(rows) if row >= 0)


def _area_of_plain_jpeg(content: bytes, *, side: int) -> int:
    """Pixels of a JPEG file of the one kind that all decoders take for the same; 0 for any other file.

    That kind has three components that are YCbCr, or one that is grey, and goes on to its end: others may be decoded
    without an error, but in wrong colours or with a grey bottom.
    """
    if not content.startswith(b"\xff\xd8") or not content.endswith(b"\xff\xd9"):
        return 0
    with opened(content) as image:
        _require_resizable(image.size, side)
        if image.format not in _JPEG or image.mode not in ("RGB", "L"):
            return 0
        as_rgb = image.info.get("adobe_transform") == 0 or [layer[0] for layer in image.layer] == list(b"RGB")
        return 0 if image.mode == "RGB" and as_rgb else image.width * image.height


def _require_resizable(size: tuple[int, int], side: int) -> None:
    """Raise ValueError when the short side resized to `side` would make an image too large for any memory."""
    scaled = [side * length // max(1, min(size)) for length in size]
    if scaled[0] * scaled[1] > _MOST_PIXELS:
        width, height = size
        raise ValueError(f"too elongated: {width}x{height} would be resized to {scaled[0]}x{scaled[1]}")
