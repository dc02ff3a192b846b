"""Image files -> the pixels a backbone takes. Used by extraction alone, mostly inside its worker processes."""

from clipret.images.depth import find_plain
from clipret.images.files import NOT_FOUND, READ_ATTEMPTS, read_file, reason_of
from clipret.images.nvjpeg import decode_on_device
from clipret.images.reading import Encoded, ImageReader, of_single_colour, on_white
from clipret.images.thumbnails import draw_thumbnail

__all__ = [
    "NOT_FOUND",
    "READ_ATTEMPTS",
    "Encoded",
    "ImageReader",
    "decode_on_device",
    "draw_thumbnail",
    "find_plain",
    "of_single_colour",
    "on_white",
    "read_file",
    "reason_of",
]
