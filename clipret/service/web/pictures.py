"""Pictures in and out: what clients send is read within limits, what they see is drawn anew from the cache's images."""

import hashlib
import io
import threading
import warnings
from collections import OrderedDict
from pathlib import Path

from PIL import Image

from clipret.cache import FeatureCache
from clipret.images import draw_thumbnail, read_file
from clipret.service.web.limits import MOST_PIXELS, RefusalError

SIZES = (64, 128, 256, 512, 1024)
# Of those that PIL reads: what browsers show.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_KEPT_BYTES = 32 << 20


def require_picture(content: bytes) -> None:
    """Raise RefusalError unless the bytes are a picture of a known format and a bearable size; nothing is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        raise RefusalError(413, f"the picture has too many pixels; expected at most {MOST_PIXELS:,}") from None
    # PIL's plug-ins raise nearly anything at a broken file.
    except Exception:
        raise RefusalError(400, f"this is no picture; expected one of {', '.join(_FORMATS)}") from None
    if width * height > MOST_PIXELS:
        raise RefusalError(413, f"the picture has {width * height:,} pixels; expected at most {MOST_PIXELS:,}")


class Thumbnails:
    """Small JPEGs of a cache's images, by row, the newest of them kept. Safe for several threads."""

    def __init__(self, cache: FeatureCache, *, root: Path):
        self._cache, self._root = cache, root
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()

    def original(self, row: int) -> tuple[bytes, str]:
        """The file of an image as it is, and its media type. Raises RefusalError."""
        content = self._read(row)
        require_picture(content)
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return content, Image.MIME[image.format]

    def thumbnail(self, row: int, *, size: int) -> bytes:
        """A JPEG of at most size x size of the image of a row, without anything else that its file has.

        Raises RefusalError: 404 when there is no such row, or its file cannot be read.
        """
        key = (row, size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        content = self._drawn(self._read(row), size=size)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = content
                self._bytes += len(content)
            while self._bytes > _KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
        return content

    def _read(self, row: int) -> bytes:
        if not 0 <= row < len(self._cache.image_states):
            raise RefusalError(404, "there is no image of this row")
        try:
            return read_file(self._cache.image_files[row], root=self._root, attempts=1)
        # Containers raise what they like at a damaged file.
        except Exception:
            raise RefusalError(404, "the file of this image cannot be read (--root)") from None

    @staticmethod
    def _drawn(content: bytes, *, size: int) -> bytes:
        try:
            return draw_thumbnail(content, size=size)
        except Exception:
            raise RefusalError(404, "the file of this image cannot be shown") from None


def tag_of(content: bytes) -> str:
    """An ETag."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'
