"""Protocols: named rules that turn a cache's images into queries, galleries and matching pairs.

    split                     any split of any cache, all captions
    coco-val2017              val2017, first five captions of an image: what the reference implementation measured on
    coco-val2017-all          val2017, all captions
    coco-karpathy-5k          Karpathy's 5,000 test images, all 25,010 captions
    coco-karpathy-5k-first5   the same images, first five captions
    coco-karpathy-1k          the same as five galleries of 1,000 images in Karpathy's order; the mean of the five
    flickr30k-karpathy-1k     Karpathy's 1,000 test images of Flickr30k

Sources: Karpathy and Fei-Fei, CVPR 2015, for the split; ECCV Caption (Chun et al., ECCV 2022) for the folds' order.
"""

from dataclasses import dataclass

import numpy as np

from clipret.cache import FeatureCache
from clipret.config import SPLITS
from clipret.errors import UsageError
from clipret.karpathy_ids import karpathy_test_ids

FIRST_CAPTIONS = 5
# What a protocol is by default, and the images and captions that a gallery of it has in the literature.
_DEFAULTS = {"coco": "coco-val2017", "coco-karpathy": "coco-karpathy-5k", "flickr30k": "flickr30k-karpathy-1k"}
_OFFICIAL = {
    "coco-val2017": (5_000, 25_000),
    "coco-val2017-all": (5_000, 25_014),
    "coco-karpathy-5k": (5_000, 25_010),
    "coco-karpathy-5k-first5": (5_000, 25_000),
    "coco-karpathy-1k": (5_000, 25_000),
    "flickr30k-karpathy-1k": (1_000, 5_000),
}
_FOLDS = {"coco-karpathy-1k": 5}


@dataclass(frozen=True)
class Fold:
    """One gallery: which rows of the cache take part, and what matches what.

    image_rows      (N,) rows of the cache
    text_rows       (M,) rows of the cache, ascending
    caption_images  (M,) position in image_rows of each caption's image
    """

    image_rows: np.ndarray
    text_rows: np.ndarray
    caption_images: np.ndarray


@dataclass(frozen=True)
class Protocol:
    """The galleries of a protocol; a metric of it is the mean over them.

    name      of the rule, printed beside every number
    split     of the images; what they are called in messages
    folds     one gallery, or several
    left_out  images that the protocol has and that are without a usable feature; their captions are left out too
    remarks   why the numbers cannot be compared with published ones, if they cannot
    """

    name: str
    split: str
    folds: tuple[Fold, ...]
    left_out: int
    remarks: tuple[str, ...] = ()

    @property
    def image_rows(self) -> np.ndarray:
        """Rows of the images in all galleries."""
        return np.concatenate([fold.image_rows for fold in self.folds])

    def describe(self) -> dict:
        """The protocol as metrics.json stores it: counts over all galleries; a gallery's size is the largest one's."""
        images, captions = len(self.image_rows), sum(len(fold.text_rows) for fold in self.folds)
        asking = sum(len(np.unique(fold.caption_images)) for fold in self.folds)
        return {
            "name": self.name,
            "split": self.split,
            "images": images,
            "captions": captions,
            "images_left_out": self.left_out,
            "folds": len(self.folds),
            "t2i": {"queries": captions, "gallery": max(len(fold.image_rows) for fold in self.folds)},
            "i2t": {"queries": asking, "gallery": max(len(fold.text_rows) for fold in self.folds)},
            "ties": "pessimistic",
            "map_divisor": "min",
            "remarks": list(self.remarks),
        }


def default_protocol(cache: FeatureCache) -> str:
    """The protocol that the literature uses for the cache's data set; `split` for every other."""
    return _DEFAULTS.get(cache.inputs["dataset"], "split")


def make_protocol(cache: FeatureCache, name: str) -> Protocol:
    """The protocol of that name (config.PROTOCOLS) on a cache; `split` means its test split.

    Raises UsageError when the cache does not hold the protocol's images.
    """
    if name == "split":
        return split_protocol(cache, split="test")
    planned = _planned_rows(cache, name)
    usable = cache.usable
    captions = _first_captions(cache) if _takes_first(name) else np.ones(len(cache.captions), dtype=bool)
    # Cut before images are left out, so that a missing image never moves another one to another gallery.
    folds = tuple(
        _fold(cache, rows[usable[rows]], captions=captions) for rows in np.array_split(planned, _FOLDS.get(name, 1))
    )
    if any(not len(fold.image_rows) or not len(fold.text_rows) for fold in folds):
        raise UsageError(f"--protocol {name}: {cache.path} has too few usable images and captions for it.")
    present = int(captions[np.isin(cache.caption_images, planned)].sum())
    remarks = _remarks(cache, name, images=len(planned), captions=present)
    return Protocol(name, "test", folds, left_out=int(np.sum(~usable[planned])), remarks=remarks)


def split_protocol(cache: FeatureCache, *, split: str) -> Protocol:
    """Protocol `split`: every usable image of a split, with all its captions.

    t2i: every caption asks for its image among the images. i2t: every image with a caption asks for any of its captions
    among the captions.

    Raises UsageError when the split has no images or no captions.
    """
    in_split = cache.image_splits == SPLITS.index(split)
    fold = _fold(cache, np.flatnonzero(in_split & cache.usable), captions=np.ones(len(cache.captions), dtype=bool))
    if not len(fold.image_rows) or not len(fold.text_rows):
        counts = ", ".join(f"{name} {np.sum(cache.image_splits == code)}" for code, name in enumerate(SPLITS))
        raise UsageError(
            f"split '{split}' has {len(fold.image_rows)} usable images and {len(fold.text_rows)} captions; "
            f"images a split in this cache: {counts}."
        )
    return Protocol("split", split, (fold,), left_out=int(np.sum(in_split & ~cache.usable)))


def _planned_rows(cache: FeatureCache, name: str) -> np.ndarray:
    """Rows of the protocol's images, usable or not, in the protocol's order."""
    dataset = cache.inputs["dataset"]
    if name.startswith("coco-karpathy") and dataset == "coco":
        return _rows_of_ids(cache, name, ids=karpathy_test_ids())
    needed = {"coco-val2017": "coco", "coco-karpathy": "coco-karpathy", "flickr30k-karpathy": "flickr30k"}
    needed = next(value for start, value in needed.items() if name.startswith(start))
    if dataset != needed:
        options = {"coco": "coco", "coco-karpathy": "coco --split karpathy", "flickr30k": "flickr30k"}
        raise UsageError(
            f"--protocol {name} needs a cache of data set '{needed}', {cache.path} is of '{dataset}'; "
            f"extract one with: clipret extract --dataset {options[needed]}"
        )
    return np.flatnonzero(cache.image_splits == SPLITS.index("test"))


def _rows_of_ids(cache: FeatureCache, name: str, *, ids: list[int]) -> np.ndarray:
    rows = {image: row for row, image in enumerate(cache.image_ids)}
    found = [rows[str(image)] for image in ids if str(image) in rows]
    if len(found) < len(ids):
        raise UsageError(
            f"--protocol {name} needs {len(ids):,} images, {cache.path} has {len(found):,} of them; extract COCO whole."
        )
    return np.array(found, dtype=np.int64)


def _takes_first(name: str) -> bool:
    return name in ("coco-val2017", "coco-karpathy-5k-first5", "coco-karpathy-1k")


def _first_captions(cache: FeatureCache) -> np.ndarray:
    """(M,) bool: the first five captions of each image, in the cache's order."""
    order = np.argsort(cache.caption_images, kind="stable")
    grouped = cache.caption_images[order]
    chosen = np.empty(len(order), dtype=bool)
    chosen[order] = np.arange(len(order)) - np.searchsorted(grouped, grouped) < FIRST_CAPTIONS
    return chosen


def _fold(cache: FeatureCache, image_rows: np.ndarray, *, captions: np.ndarray) -> Fold:
    """The gallery of these images with those of their captions that are chosen: captions (M,) bool."""
    position = np.full(len(cache.image_ids), -1, dtype=np.int64)
    position[image_rows] = np.arange(len(image_rows))
    owners = position[cache.caption_images]
    text_rows = np.flatnonzero(captions & (owners >= 0))
    return Fold(image_rows, text_rows, owners[text_rows])


def _remarks(cache: FeatureCache, name: str, *, images: int, captions: int) -> tuple[str, ...]:
    official_images, official_captions = _OFFICIAL[name]
    remarks = []
    if images != official_images:
        remarks.append(f"{images:,} images where the protocol has {official_images:,}")
    elif captions != official_captions:
        remarks.append(f"{captions:,} captions where the protocol has {official_captions:,}")
    for setting, usual in (("prompt", "{}"), ("caption_clean", "none")):
        if cache.inputs[setting] != usual:
            remarks.append(f"{setting.replace('_', ' ')} '{cache.inputs[setting]}' where the protocol has raw captions")
    return tuple(remarks)
