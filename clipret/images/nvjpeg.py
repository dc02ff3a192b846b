"""JPEG files decoded, resized and cropped on a device: nvJPEG on CUDA. Nearly clip's pixels, and much faster."""

import functools
import io
import itertools
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from clipret.errors import UsageError
from clipret.images.files import reason_of
from clipret.images.reading import Encoded, ImageReader

# Decoded at once: 400 MB of the device's memory.
_MOST_PIXELS_AT_ONCE = 1 << 27


def decode_on_device(
    encoded: Encoded, *, reader: ImageReader, device: torch.device
) -> tuple[torch.Tensor, dict[int, str]]:
    """Pixels (B, side, side, 3) uint8 on the device, and position -> reason for files found unreadable only here.

    encoded  what reader.read_encoded made of B rows; what that could not, or need not, read are zeros

    The short side is resized by antialiased bicubic interpolation and the centre is cropped, as clip does, by the
    device's own rounding. A JPEG file that the device's decoder refuses has exactly clip's pixels, from PIL.
    """
    pixels = torch.zeros(encoded.size, reader.side, reader.side, 3, dtype=torch.uint8, device=device)
    problems = {}
    if encoded.decoded:
        pixels[torch.tensor(encoded.decoded, device=device)] = encoded.pixels.to(device, non_blocking=True)
    for group in _groups(encoded):
        images = _decoded([content for _, content in group], device)
        for (position, content), image in zip(group, images, strict=True):
            if image is not None:
                pixels[position] = _cropped(image, reader.side)
                continue
            try:
                exact = reader.decode(content.numpy().tobytes())
            # As in ImageReader.read.
            except Exception as error:
                problems[position] = reason_of(error)
            else:
                pixels[position] = torch.tensor(exact, device=device)
    return pixels, problems


def _groups(encoded: Encoded) -> Iterator[list[tuple[int, torch.Tensor]]]:
    """(position, content) of the JPEG files, in lists of as many as are decoded at once."""
    contents = encoded.stream.split([length for _, length, _ in encoded.jpegs])
    before = itertools.accumulate((area for _, _, area in encoded.jpegs), initial=0)
    files = zip(encoded.jpegs, contents, before, strict=False)
    for _, group in itertools.groupby(files, key=lambda file: file[2] // _MOST_PIXELS_AT_ONCE):
        yield [(position, content) for (position, _, _), content, _ in group]


def _decoded(contents: list[torch.Tensor], device: torch.device) -> list[torch.Tensor | None]:
    """The images (3, H, W) uint8; None for those that the decoder refuses, which are found one by one."""
    try:
        return _decode_jpegs(contents, device)
    except torch.OutOfMemoryError:
        # Not the file's fault: with PIL's pixels instead, features would depend on how full the device was.
        raise
    except RuntimeError:
        if len(contents) == 1:
            _require_decoder(device)
            return [None]
        return [image for content in contents for image in _decoded([content], device)]


def _decode_jpegs(contents: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    try:
        # Here, as torchvision has announced to drop it.
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError:
        raise UsageError(
            "--decode is fast, and this torchvision has no torchvision.io.decode_jpeg any more; use --decode exact, or "
            "an older torchvision."
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return decode_jpeg(contents, mode=ImageReadMode.RGB, device=device)


@functools.lru_cache
def _require_decoder(device: torch.device) -> None:
    """Raise UsageError unless the device decodes a JPEG file in which nothing is wrong."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(stream, "JPEG")
    content = torch.from_numpy(np.frombuffer(stream.getvalue(), dtype=np.uint8).copy())
    try:
        _decode_jpegs([content], device)
    except RuntimeError as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise UsageError(
            f"--decode is fast, and this torchvision decodes no JPEG files on {device.type}: {reason}; use --decode "
            f"exact."
        ) from error


def _cropped(image: torch.Tensor, side: int) -> torch.Tensor:
    resized = functional.resize(image, [side], interpolation=InterpolationMode.BICUBIC, antialias=True)
    return functional.center_crop(resized, [side, side]).permute(1, 2, 0)
