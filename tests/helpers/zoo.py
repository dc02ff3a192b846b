"""A folder of image files of every kind, good and bad, each made here: real encoders, or raw bytes where none errs."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# Written by no one: one is missing, the other is a folder.
ABSENT = ("folder.jpg", "missing.jpg")
_SIZE = (90, 70)
_CENTRE = (45, 35)


def make_zoo(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Fill a folder; return the names of the readable files, and the others' names -> how their reasons begin."""
    folder.mkdir(parents=True, exist_ok=True)
    good, bad = {**_colours(), **_transparencies(), **_oddities()}, _broken()
    for name, data in {**good, **{name: data for name, (data, _) in bad.items()}}.items():
        (folder / name).write_bytes(data)
    (folder / "folder.jpg").mkdir()
    return list(good), {name: reason for name, (_, reason) in bad.items()}


def noise(mode: str = "RGB") -> Image.Image:
    """An image of one mode, of smooth and rough parts."""
    generator = np.random.default_rng(len(mode))
    width, height = _SIZE
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    pixels = np.clip(ramp + generator.integers(-60, 60, size=ramp.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey PNG of any size with chunks of any content, their checksums right."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (header, *chunks, (b"IEND", b""))
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def see_through(mode: str) -> Image.Image:
    """An image with an alpha channel that is all or nothing."""
    image = noise("RGBA")
    image.putalpha(Image.fromarray(np.indices(_SIZE[::-1]).sum(axis=0).astype(np.uint8) % 2 * 255))
    return image.convert(mode)


def _colours() -> dict[str, bytes]:
    wide = np.random.default_rng(0).integers(0, 600, size=_SIZE[::-1])
    return {
        "plain.jpg": encoded(noise(), "JPEG"),
        "progressive.jpg": encoded(noise(), "JPEG", progressive=True),
        "grey.jpg": encoded(noise("L"), "JPEG"),
        "cmyk.jpg": encoded(noise("CMYK"), "JPEG"),
        "one-bit.png": encoded(noise("1"), "PNG"),
        "palette.png": encoded(noise("P"), "PNG"),
        "sixteen-bit.png": encoded(Image.fromarray(wide.astype(np.uint16)), "PNG"),
        "sixteen-bit.tiff": encoded(Image.fromarray(wide.astype(np.uint16)), "TIFF"),
        "thirty-two-bit.tiff": encoded(Image.fromarray(wide.astype(np.int32)), "TIFF"),
        "float.tiff": encoded(Image.fromarray((wide / 2).astype(np.float32)), "TIFF"),
        "packed.tiff": encoded(noise(), "TIFF", compression="tiff_lzw"),
        "plain.bmp": encoded(noise(), "BMP"),
        "lossless.webp": encoded(noise(), "WEBP", lossless=True),
    }


def _transparencies() -> dict[str, bytes]:
    indices = bytes(number % 2 * 255 for number in range(256))
    one_value = noise("L").getpixel(_CENTRE)
    return {
        "rgba.png": encoded(see_through("RGBA"), "PNG"),
        "la.png": encoded(see_through("LA"), "PNG"),
        "rgba.webp": encoded(see_through("RGBA"), "WEBP", lossless=True, exact=True),
        "palette-bytes.png": encoded(noise("P"), "PNG", transparency=indices),
        "palette-index.png": encoded(noise("P"), "PNG", transparency=noise("P").getpixel(_CENTRE)),
        "palette-index.gif": encoded(noise("P"), "GIF", transparency=0),
        "grey-key.png": encoded(noise("L"), "PNG", transparency=one_value),
        "colour-key.png": encoded(noise(), "PNG", transparency=noise().getpixel(_CENTRE)),
        "one-bit-key.png": encoded(noise("1"), "PNG", transparency=0),
    }


def _oddities() -> dict[str, bytes]:
    turned = Image.Exif()
    turned[0x112] = 6
    frames = {"save_all": True, "append_images": [noise().rotate(90), noise().rotate(180)]}
    return {
        "exif-turned.jpg": encoded(noise(), "JPEG", exif=turned),
        "trailing.jpg": encoded(noise(), "JPEG") + b"garbage" * 50,
        "png-named.jpg": encoded(noise(), "PNG"),
        "animated.gif": encoded(noise(), "GIF", **frames),
        "animated.webp": encoded(noise(), "WEBP", lossless=True, **frames),
        "animated.png": encoded(noise(), "PNG", **frames),
        "one-pixel.png": encoded(Image.new("RGB", (1, 1), "teal"), "PNG"),
        "long.png": encoded(Image.linear_gradient("L").resize((20_000, 50)), "PNG"),
        # Between PIL's limits, where it warns of a decompression bomb.
        "large.png": encoded(Image.new("1", (9_500, 9_500), 1), "PNG"),
    }


def _broken() -> dict[str, tuple[bytes, str]]:
    jpeg, data = encoded(noise(), "JPEG"), zlib.compress(bytes(20 * 21))
    unknown = "not an image that PIL knows"
    return {
        "empty.jpg": (b"", "empty file"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "truncated file"),
        "header.jpg": (jpeg[:100], "truncated file"),
        "signature.jpg": (b"\xff\xd8", ""),
        "half.webp": (encoded(noise(), "WEBP")[:600], ""),
        "half.gif": (encoded(noise(), "GIF")[:900], "truncated file"),
        "half.tiff": (encoded(noise(), "TIFF")[:900], "truncated file"),
        "text.jpg": (b"<html>404 Not Found</html>", unknown),
        "zeros.png": (bytes(5000), unknown),
        "zip.png": (b"PK\x03\x04" + bytes(400), unknown),
        "no-pixels.png": (png(20, 20), ""),
        "bad-pixels.png": (png(20, 20, (b"IDAT", b"\0" * 30)), ""),
        "short-chunk.png": (png(20, 20, (b"gAMA", b"\0"), (b"IDAT", data)), ""),
        "bomb.png": (png(20_000, 20_000), "too large: Image size (400000000 pixels) exceeds limit of"),
        "text-bomb.png": (png(20, 20, (b"zTXt", b"a\0\0" + zlib.compress(bytes(9 << 20))), (b"IDAT", data)), ""),
        "thin.png": (encoded(Image.new("L", (30_000, 1)), "PNG"), "too elongated: 30000x1 would be resized to "),
        "high.png": (encoded(Image.new("L", (1, 30_000)), "PNG"), "too elongated: 1x30000 would be resized to "),
    }
