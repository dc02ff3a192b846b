"""Whether a head is measured on images that it was trained on, whatever files, names and caches they came by.

An image is known by the bytes of its file and, with one of COCO's file names, by its integer id. The data set's name
and its own id for it mean nothing elsewhere.
"""

import numpy as np

from clipret.cache import FeatureCache
from clipret.cache.image_keys import UNKNOWN, content_keys, copies, image_keys, usable_rows
from clipret.errors import TrainingError
from clipret.protocols.protocol import Protocol, split_protocol


def training_keys(keys: np.ndarray) -> np.ndarray | None:
    """What a head keeps of the images that it was trained on: their keys, (K,) uint64, ascending and each once.

    keys  (N, 2) as image_keys gives them

    None when there is nothing that an image could be known by.
    """
    if not (keys != UNKNOWN).any(axis=1).all():
        return None
    return np.setdiff1d(keys, np.uint64(UNKNOWN))


def trained_on(keys: np.ndarray, training: np.ndarray) -> np.ndarray:
    """(N,) bool: which images, keys (N, 2), are among those whose keys a head keeps, training (K,)."""
    return (np.isin(keys, training) & (keys != UNKNOWN)).any(axis=1)


def check_images(keys: np.ndarray, training: np.ndarray | None) -> dict:
    """What is known of a head and images: as metrics.json has it.

    keys      (N, 2) of the images
    training  what the head keeps; None: nothing

    Returns checked, whether it is known of each image; trained_on, how many the head was trained on, or None; images.
    """
    checked = training is not None and bool((keys != UNKNOWN).any(axis=1).all())
    count = None if training is None else int(trained_on(keys, training).sum())
    return {"checked": checked, "trained_on": count, "images": len(keys)}


def copies_of_training(cache: FeatureCache, protocol: Protocol) -> dict | None:
    """How many of a protocol's images equal images of train, byte for byte: as split_copies has it; None of train."""
    if protocol.split == "train":
        return None
    return copies(content_keys(cache), protocol.image_rows, cache=cache, split=protocol.split, of="train")


def training_images(cache: FeatureCache, *, without_copies: bool) -> Protocol:
    """The images that are trained on: the train split.

    without_copies  but for those that are, by their keys, images of val or test too

    Raises UsageError without any, TrainingError when all of them are left out.
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


def is_in_train(cache: FeatureCache, protocol: Protocol) -> bool:
    """Whether an image of a protocol that is not train's is, by its keys, an image of train too."""
    return protocol.split != "train" and bool(
        _shared(cache, protocol.image_rows, usable_rows(cache, split="train")).any()
    )


def _shared(cache: FeatureCache, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(len(rows),) bool: which of these images are among the others."""
    return trained_on(image_keys(cache, rows), image_keys(cache, others).ravel())
