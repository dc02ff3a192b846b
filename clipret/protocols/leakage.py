"""Leakage: whether a head is measured on images that it was trained on, across files, names and caches.

An image is identified by the hash of its file and, if the file has a COCO name, by its COCO id. Ids of other data sets
are not used, as they are not unique across data sets.
"""

import numpy as np

from clipret.cache import FeatureCache
from clipret.cache.image_keys import UNKNOWN, content_keys, copies, image_keys, usable_rows
from clipret.errors import TrainingError
from clipret.protocols.protocol import Protocol, split_protocol


def training_keys(keys: np.ndarray) -> np.ndarray | None:
    """The keys of the training images that are stored with a head: (K,) uint64, ascending and unique.

    keys  (N, 2) as returned by image_keys

    Returns None when no key is known.
    """
    if not (keys != UNKNOWN).any(axis=1).all():
        return None
    return np.setdiff1d(keys, np.uint64(UNKNOWN))


def trained_on(keys: np.ndarray, training: np.ndarray) -> np.ndarray:
    """(N,) bool: which images, keys (N, 2), are among the training images of a head, keys training (K,)."""
    return (np.isin(keys, training) & (keys != UNKNOWN)).any(axis=1)


def check_images(keys: np.ndarray, training: np.ndarray | None) -> dict:
    """How many of these images the head was trained on, in the form of metrics.json.

    keys      (N, 2) of the images
    training  the keys stored with the head; None: none

    Returns checked (whether every image could be checked), trained_on (how many the head was trained on, or None) and
    images (their number).
    """
    checked = training is not None and bool((keys != UNKNOWN).any(axis=1).all())
    count = None if training is None else int(trained_on(keys, training).sum())
    return {"checked": checked, "trained_on": count, "images": len(keys)}


def copies_of_training(cache: FeatureCache, protocol: Protocol) -> dict | None:
    """How many images of a protocol equal images of train, byte for byte: an entry of split_copies; None for train."""
    if protocol.split == "train":
        return None
    return copies(content_keys(cache), protocol.image_rows, cache=cache, split=protocol.split, of="train")


def training_images(cache: FeatureCache, *, without_copies: bool) -> Protocol:
    """The training images: the train split.

    without_copies  leave out images whose keys are also in val or test

    Raises UsageError when there are none, TrainingError when all of them are left out.
    """
    whole = split_protocol(cache, split="train")
    if not without_copies:
        return whole
    rows = whole.image_rows
    measured = np.concatenate([usable_rows(cache, split=split) for split in ("val", "test")])
    copies = _shared(cache, rows, measured)
    if copies.all():
        raise TrainingError(
            f"all {len(rows):,} training images of {cache.path} are images of val or test too: there is nothing left "
            f"to train on with --drop-cross-split-duplicates."
        )
    return split_protocol(cache, split="train", without=rows[copies])


def split_without(cache: FeatureCache, *, split: str, rows: np.ndarray) -> Protocol:
    """A split without the images of these rows of the cache, and without images that share a key with one of them.

    Raises UsageError when nothing is left.
    """
    own = usable_rows(cache, split=split)
    return split_protocol(cache, split=split, without=own[np.isin(own, rows) | _shared(cache, own, rows)])


def is_in_train(cache: FeatureCache, protocol: Protocol) -> bool:
    """Whether a protocol on another split than train has an image that, by its keys, is also in train."""
    return protocol.split != "train" and bool(
        _shared(cache, protocol.image_rows, usable_rows(cache, split="train")).any()
    )


def _shared(cache: FeatureCache, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(len(rows),) bool: which of these images are among the others."""
    return trained_on(image_keys(cache, rows), image_keys(cache, others).ravel())
