"""Small pictures of image files, for people to look at."""

import io
import warnings

from PIL import Image, ImageOps

from clipret.images.reading import on_white

MOST_PIXELS = 40_000_000


def draw_thumbnail(content: bytes, *, size: int, quality: int = 85) -> bytes:
    """A JPEG of at most size x size of an image file's bytes, upright, on white, without what else the file holds.

    Raises ValueError when more than 40 million pixels would have to be decoded, and whatever PIL raises at a broken
    file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            # Of a JPEG as few pixels are decoded as the thumbnail needs.
            image.draft("RGB", (size, size))
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"it has more than {MOST_PIXELS:,} pixels to decode")
            small = on_white(ImageOps.exif_transpose(image)).convert("RGB")
            small.thumbnail((size, size), Image.Resampling.BICUBIC)
            drawn = io.BytesIO()
            small.save(drawn, "JPEG", quality=quality)
    return drawn.getvalue()
