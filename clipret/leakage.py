"""Whether a head is measured on images that it was trained on, whatever files and caches they came by."""

import hashlib
import io
import re
from pathlib import Path

import numpy as np

from clipret.cache import FeatureCache
from clipret.errors import RunError
from clipret.files import read_file

# COCO's file names of 2014 and of 2017; the integer id, the same in both, is the image.
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val)2014_)?(\d{12})\.jpg")
# Of a list of digests: a hundred million images.
_MOST_BYTES = 800_000_128
# Data sets whose splits differ and whose images are the same.
_SAME_IMAGES = {"coco-karpathy": "coco", "flickr30k-hash": "flickr30k"}


def image_digests(cache: FeatureCache, rows: np.ndarray) -> np.ndarray:
    """A number for each image that is the same wherever the image is met again.

    rows  (N,) rows of the cache

    Returns (N,) uint64: the first 8 bytes of the sha256 of `coco:` and the integer id for COCO's images, known by their
    file names of 2014 or 2017, and of the data set's name and its own id for every other image.
    """
    dataset = _SAME_IMAGES.get(cache.inputs["dataset"], cache.inputs["dataset"])
    keys = []
    for row in rows:
        name = _COCO_NAME.fullmatch(cache.image_files[row].rpartition("/")[2])
        keys.append(f"coco:{int(name[1])}" if name else f"{dataset}:{cache.image_ids[row]}")
    digests = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") for key in keys]
    return np.array(digests, dtype=np.uint64)


def save_trained_on(path: Path, digests: np.ndarray) -> None:
    """Write the digests of the images that a head was trained on: eight bytes each, as a NumPy array."""
    np.save(path, np.unique(digests), allow_pickle=False)


def count_trained_on(path: Path, digests: np.ndarray) -> int | None:
    """How many of these images are among those that save_trained_on wrote; None when there is no such file.

    Raises RunError when the file is not one that save_trained_on wrote.
    """
    try:
        trained_on = _parse_list(read_file(path, most=_MOST_BYTES))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path} is not a list of trained images ({reason}); train the run again.") from None
    return int(np.isin(digests, trained_on).sum())


def _parse_list(content: bytes) -> np.ndarray:
    """The (K,) uint64 of a NumPy file's bytes, never unpickled. Raises ValueError when they are anything else."""
    stream = io.BytesIO(content)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of NumPy's format")
    shape, _, kind = np.lib.format.read_array_header_1_0(stream)
    if kind != np.uint64 or len(shape) != 1:
        raise ValueError(f"{kind} of shape {shape}")
    size = len(content) - stream.tell()
    if size != 8 * shape[0]:
        raise ValueError(f"{shape[0]:,} numbers of 8 bytes, and {size:,} bytes")
    return np.frombuffer(content, dtype=kind, offset=stream.tell())
