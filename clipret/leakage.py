"""Whether a head is measured on images that it was trained on, whatever files, names and caches they came by.

An image is known by the bytes of its file and, with one of COCO's file names, by its integer id. The data set's name
and its own id for it mean nothing elsewhere.
"""

import hashlib
import re

import numpy as np

from clipret.cache import FeatureCache
from clipret.config import SPLITS
from clipret.errors import TrainingError
from clipret.protocols import Protocol, split_protocol

# COCO's file names of 2014 and of 2017; the integer id, the same in both, is the image.
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val)2014_)?(\d{12})\.jpg")
# In this order: copies are said of the split that figures are of, before the one that they are copies of.
_MEASURED_FIRST = ("test", "val", "restval", "train")
_UNKNOWN = 0


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
    ids = [_number(hashlib.sha256(f"coco:{int(name[1])}".encode()).digest()) if name else _UNKNOWN for name in names]
    return np.stack([content_keys(cache)[rows], np.array(ids, dtype=np.uint64)], axis=1)


def training_keys(keys: np.ndarray) -> np.ndarray | None:
    """What a head keeps of the images that it was trained on: their keys, (K,) uint64, ascending and each once.

    keys  (N, 2) as image_keys gives them

    None when there is nothing that an image could be known by.
    """
    if not (keys != _UNKNOWN).any(axis=1).all():
        return None
    return np.setdiff1d(keys, np.uint64(_UNKNOWN))


def trained_on(keys: np.ndarray, training: np.ndarray) -> np.ndarray:
    """(N,) bool: which images, keys (N, 2), are among those whose keys a head keeps, training (K,)."""
    return (np.isin(keys, training) & (keys != _UNKNOWN)).any(axis=1)


def check_images(keys: np.ndarray, training: np.ndarray | None) -> dict:
    """What is known of a head and images: as metrics.json has it.

    keys      (N, 2) of the images
    training  what the head keeps; None: nothing

    Returns checked, whether it is known of each image; trained_on, how many the head was trained on, or None; images.
    """
    known = training is not None and bool((keys != _UNKNOWN).any(axis=1).all())
    count = None if training is None else int(trained_on(keys, training).sum())
    return {"checked": known, "trained_on": count, "images": len(keys)}


def copies_of_training(cache: FeatureCache, protocol: Protocol) -> dict | None:
    """How many of a protocol's images equal images of train, byte for byte: as split_copies has it; None of train."""
    if protocol.split == "train":
        return None
    return _copies(content_keys(cache), protocol.image_rows, cache=cache, split=protocol.split, of="train")


def split_copies(cache: FeatureCache) -> list[dict]:
    """Of any two splits, how many usable images of the one equal images of the other, byte for byte.

    Returns split, images (usable ones of that split), copies (how many of them) and of (the other split), for those
    with copies; of two splits the one that is measured comes first.
    """
    contents, found = content_keys(cache), []
    for place, split in enumerate(_MEASURED_FIRST):
        rows = _rows(cache, split)
        pairs = (_copies(contents, rows, cache=cache, split=split, of=of) for of in _MEASURED_FIRST[place + 1 :])
        found += [pair for pair in pairs if pair["copies"]]
    return found


def training_images(cache: FeatureCache, *, without_copies: bool) -> Protocol:
    """The images that are trained on: the train split.

    without_copies  but for those that are, by their keys, images of val or test too

    Raises UsageError without any, TrainingError when all of them are left out.
    """
    whole = split_protocol(cache, split="train")
    if not without_copies:
        return whole
    rows = whole.image_rows
    measured = np.concatenate([_rows(cache, split) for split in ("val", "test")])
    copies = _shared(cache, rows, measured)
    if copies.all():
        raise TrainingError(
            f"all {len(rows):,} training images of {cache.path} are images of val or test too: there is nothing left "
            f"to train on with --drop-cross-split-duplicates."
        )
    return split_protocol(cache, split="train", without=rows[copies])


def is_in_train(cache: FeatureCache, protocol: Protocol) -> bool:
    """Whether an image of a protocol that is not train's is, by its keys, an image of train too."""
    return protocol.split != "train" and bool(_shared(cache, protocol.image_rows, _rows(cache, "train")).any())


def _shared(cache: FeatureCache, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(len(rows),) bool: which of these images are among the others."""
    return trained_on(image_keys(cache, rows), image_keys(cache, others).ravel())


def _copies(contents: np.ndarray, rows: np.ndarray, *, cache: FeatureCache, split: str, of: str) -> dict:
    others = contents[_rows(cache, of)]
    copies = np.isin(contents[rows], others[others != _UNKNOWN])
    return {"split": split, "images": len(rows), "copies": int(copies.sum()), "of": of}


def _rows(cache: FeatureCache, split: str) -> np.ndarray:
    return np.flatnonzero((cache.image_splits == SPLITS.index(split)) & cache.usable)


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big")
