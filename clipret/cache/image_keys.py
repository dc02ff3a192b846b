"""Keys that identify an image across caches and file names: the hash of its file, and its COCO id."""

import hashlib
import re

import numpy as np

from clipret.cache.reading import FeatureCache
from clipret.config import SPLITS

# COCO's file names of 2014 and of 2017; both contain the same integer id of the image.
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val)2014_)?(\d{12})\.jpg")
# Order of a pair of splits in reports of copies: the one that results are measured on comes first.
_MEASURED_FIRST = ("test", "val", "restval", "train")
# The key of an image whose key is not known.
UNKNOWN = 0


def content_keys(cache: FeatureCache) -> np.ndarray:
    """(N,) uint64: the first 8 bytes of the sha256 of each image file; 0 where that is not known."""
    return np.ascontiguousarray(cache.image_digests[:, :8]).view(">u8")[:, 0].astype(np.uint64)


def image_keys(cache: FeatureCache, rows: np.ndarray) -> np.ndarray:
    """Two keys of each image that are the same in every cache. Images that share either key are the same image.

    rows  (N,) rows of the cache

    Returns (N, 2) uint64: the first 8 bytes of the sha256 of the file, and the first 8 of the sha256 of `coco:ID` for
    files named as in COCO 2014 or 2017; 0 where a key is not known.
    """
    names = (_COCO_NAME.fullmatch(cache.image_files[row].rpartition("/")[2]) for row in rows)
    ids = [_number(hashlib.sha256(f"coco:{int(name[1])}".encode()).digest()) if name else UNKNOWN for name in names]
    return np.stack([content_keys(cache)[rows], np.array(ids, dtype=np.uint64)], axis=1)


def split_copies(cache: FeatureCache) -> list[dict]:
    """For each pair of splits, how many usable images of one equal images of the other, byte for byte.

    Returns one dict for each pair with copies: split, images (usable ones of that split), copies (how many of them) and
    of (the other split). `split` is the one that results are measured on.
    """
    contents, entries = content_keys(cache), []
    for place, split in enumerate(_MEASURED_FIRST):
        rows = usable_rows(cache, split=split)
        pairs = (copies(contents, rows, cache=cache, split=split, of=of) for of in _MEASURED_FIRST[place + 1 :])
        entries += [pair for pair in pairs if pair["copies"]]
    return entries


def copies(contents: np.ndarray, rows: np.ndarray, *, cache: FeatureCache, split: str, of: str) -> dict:
    """An entry of split_copies: how many of these rows of `split` equal usable images of the split `of`.

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
