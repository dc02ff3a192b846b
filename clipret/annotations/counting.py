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


def single_colour_in_words(counts: dict) -> str:
    """The result of inspection.count_single_colour, or of a check, as a sentence without its full stop."""
    images = "image is" if counts["images"] == 1 else "images are"
    return (
        f"{counts['images']:,} {images} of a single colour to the encoder, such as {counts['first']}; 16-bit and float "
        f"images become all white or all black in clip's conversion"
    )


def copies_in_words(copies: dict) -> str:
    """An entry of leakage.split_copies: `76 of the 526 test images equal images of train, byte for byte`."""
    equal = "equals an image" if copies["copies"] == 1 else "equal images"
    return (
        f"{copies['copies']:,} of the {copies['images']:,} {copies['split']} images {equal} of {copies['of']}, byte "
        f"for byte"
    )
