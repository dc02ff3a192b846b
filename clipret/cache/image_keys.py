"""What images are known by, whatever names and caches they came by: the bytes of their files, and COCO's ids."""

import hashlib
import re

import numpy as np

from clipret.cache.reading import FeatureCache
from clipret.config import SPLITS

# COCO's file names of 2014 and of 2017; the integer id, the same in both, is the image.
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val)2014_)?(\d{12})\.jpg")
# In this order: copies are said of the split that figures are of, before the one that they are copies of.
_MEASURED_FIRST = ("test", "val", "restval", "train")
# The key of what is not known.
UNKNOWN = 0


def content_keys(cache: FeatureCache) -> np.ndarray:
    """(N,) uint64: of each image the first 8 bytes of the sha256 of its file; 0 where that is not known."""
    return np.ascontiguousarray(cache.image_digests[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def image_keys(cache: FeatureCache, rows: np.ndarray) -> np.ndarray:
    """Numbers of each image that are the same wherever it is met again: images that share one are the same image.

    rows  (N,) rows of the cache

    Returns (N, 2) uint64: the first 8 bytes of the sha256 of the file, and of that of `coco:` and the integer id where
    the file has one of COCO's names of 2014 or 2017; 0 where there is none.
    """
    names = (_COCO_NAME.fullmatch(cache.image_files[row].rpartition("/")[2]) for row in rows)
    ids = [_number(hashlib.sha256(f"coco:{int(name[1])}".encode()).digest()) if name else UNKNOWN for name in names]
    return np.stack([content_keys(cache)[rows], np.array(ids, dtype=np.uint64)], axis=1)


def split_copies(cache: FeatureCache) -> list[dict]:
    """Of any two splits, how many usable images of the one equal images of the other, byte for byte.

    Returns split, images (usable ones of that split), copies (how many of them) and of (the other split), for those
    with copies; of two splits the one that is measured comes first.
    """
    contents, entries = content_keys(cache), []
    for place, split in enumerate(_MEASURED_FIRST):
        rows = usable_rows(cache, split=split)
        pairs = (copies(contents, rows, cache=cache, split=split, of=of) for of in _MEASURED_FIRST[place + 1 :])
        entries += [pair for pair in pairs if pair["copies"]]
    return entries


def copies(contents: np.ndarray, rows: np.ndarray, *, cache: FeatureCache, split: str, of: str) -> dict:
    """How many of these rows, of a split, equal usable images of the split `of`: an entry of split_copies.

    contents  content_keys of the cache
    """
    others = contents[usable_rows(cache, split=of)]
    equal = np.isin(contents[rows], others[others != UNKNOWN])
    return {"split": split, "images": len(rows), "copies": int(equal.sum()), "of": of}


def usable_rows(cache: FeatureCache, *, split: str) -> np.ndarray:
    """Rows of the usable images of a split, ascending."""
    return np.flatnonzero((cache.image_splits == SPLITS.index(split)) & cache.usable)


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")
