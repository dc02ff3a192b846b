"""Protocols: named rules that turn a split into queries, a gallery and matching pairs."""

from dataclasses import dataclass

import numpy as np

from clipret.cache import FeatureCache
from clipret.config import SPLITS
from clipret.errors import UsageError


@dataclass(frozen=True)
class Protocol:
    """Which rows of a cache take part, and what matches what.

    name            of the rule, printed beside every number
    split           of the images
    image_rows      (N,) rows of the cache, ascending
    text_rows       (M,) rows of the cache, ascending
    caption_images  (M,) position in image_rows of each caption's image
    left_out        images of the split without a usable feature; their captions are left out too
    """

    name: str
    split: str
    image_rows: np.ndarray
    text_rows: np.ndarray
    caption_images: np.ndarray
    left_out: int

    def describe(self) -> dict:
        """The protocol as metrics.json stores it."""
        asking = len(np.unique(self.caption_images))
        images, captions = len(self.image_rows), len(self.text_rows)
        return {
            "name": self.name,
            "split": self.split,
            "images": images,
            "captions": captions,
            "images_left_out": self.left_out,
            "t2i": {"queries": captions, "gallery": images},
            "i2t": {"queries": asking, "gallery": captions},
            "ties": "pessimistic",
            "map_divisor": "min",
        }


def split_protocol(cache: FeatureCache, *, split: str) -> Protocol:
    """Protocol `split`: every usable image of a split, with all its captions.

    t2i: every caption asks for its image among the images. i2t: every image with a caption asks for any of its captions
    among the captions.

    Raises UsageError when the split has no images or no captions.
    """
    in_split = cache.image_splits == SPLITS.index(split)
    image_rows = np.flatnonzero(in_split & cache.usable)
    text_rows = np.flatnonzero((in_split & cache.usable)[cache.caption_images])
    if not len(image_rows) or not len(text_rows):
        counts = ", ".join(f"{name} {np.sum(cache.image_splits == code)}" for code, name in enumerate(SPLITS))
        raise UsageError(
            f"split '{split}' has {len(image_rows)} usable images and {len(text_rows)} captions; "
            f"images a split in this cache: {counts}."
        )
    return Protocol(
        name="split",
        split=split,
        image_rows=image_rows,
        text_rows=text_rows,
        caption_images=np.searchsorted(image_rows, cache.caption_images[text_rows]),
        left_out=int(np.sum(in_split & ~cache.usable)),
    )
