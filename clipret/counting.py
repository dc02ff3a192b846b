"""How many images and captions a split has, and which of its image's captions a caption is."""

import numpy as np

from clipret.config import SPLITS


def count_splits(image_splits: np.ndarray, caption_images: np.ndarray) -> dict[str, dict[str, int]]:
    """Split -> its images and captions, for the splits that have images.

    image_splits    (N,) uint8, indices into config.SPLITS
    caption_images  (M,) the row of each caption's image
    """
    images = np.bincount(image_splits, minlength=len(SPLITS))
    captions = np.bincount(image_splits[caption_images], minlength=len(SPLITS))
    return {
        name: {"images": int(images[code]), "captions": int(captions[code])}
        for code, name in enumerate(SPLITS)
        if images[code]
    }


def caption_places(caption_images: np.ndarray) -> np.ndarray:
    """(M,) int64: the place from 0 of each caption among its image's captions, in the order that they come in.

    caption_images  (M,) the row of each caption's image, in any order
    """
    order = np.argsort(caption_images, kind="stable")
    grouped = caption_images[order]
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order)) - np.searchsorted(grouped, grouped)
    return places
