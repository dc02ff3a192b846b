"""Crisscrossed Captions and ECCV Caption on a cache: which of its captions take part, and what matches what.

Shape suffixes: N images and M captions of a gallery, P matching pairs.
"""

import numpy as np

from clipret.cache import FeatureCache
from clipret.karpathy_ids import karpathy_test_captions, matching_ids

OTHERWISE = "choose another --protocol"


def known_captions(cache: FeatureCache) -> np.ndarray:
    """(captions,) bool: which of a cache's captions are of the 25,000, by COCO's ids of them and of their images.

    Raises DatasetError when the package `eccv-caption` is not installed.
    """
    known = {(str(caption), str(image)) for caption, image in karpathy_test_captions(otherwise=OTHERWISE).items()}
    ids, owners = cache.image_ids, cache.caption_images.tolist()
    pairs = ((caption, ids[owner]) for caption, owner in zip(cache.caption_ids, owners, strict=True))
    return np.array([pair in known for pair in pairs], dtype=bool)


def known_matches(
    cache: FeatureCache, truth: str, *, image_rows: np.ndarray, text_rows: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The matching pairs of a gallery, as a Fold has them, in the order of their positions.

    truth       cxc or eccv, as karpathy_ids.matching_ids has them
    image_rows  (N,) the gallery's images
    text_rows   (M,) the gallery's captions

    Returns {"t2i": (caption positions, image positions), "i2t": (image positions, caption positions)}, each (P,). Pairs
    of which one side is not in the gallery are left out; a query without a pair asks nothing.

    Raises DatasetError when the package `eccv-caption` is not installed.
    """
    places = {
        "image": {cache.image_ids[row]: place for place, row in enumerate(image_rows)},
        "text": {cache.caption_ids[row]: place for place, row in enumerate(text_rows)},
    }
    sides = {"t2i": ("text", "image"), "i2t": ("image", "text")}
    pairs = matching_ids(truth, otherwise=OTHERWISE)
    return {way: _positions(pairs[way], *(places[side] for side in sides[way])) for way in sides}


def _positions(
    pairs: list[tuple[int, int]], queries: dict[str, int], items: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    found = sorted(
        (queries[str(query)], items[str(item)]) for query, item in pairs if str(query) in queries and str(item) in items
    )
    table = np.array(found, dtype=np.int64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()
