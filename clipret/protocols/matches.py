"""Matching pairs beyond an image's own captions: Crisscrossed Captions, ECCV Caption, equal texts.

Shape suffixes: N images and M captions of a gallery, P matching pairs.
"""

import numpy as np

from clipret.annotations.karpathy_ids import karpathy_test_captions, matching_ids
from clipret.cache import FeatureCache
from clipret.errors import UsageError

# Ranking takes about 100 bytes per pair.
_MOST_PAIRS = 20_000_000
OTHERWISE = "choose another --protocol"


def known_captions(cache: FeatureCache) -> np.ndarray:
    """(captions,) bool: which captions of a cache are among the 25,000 of CxC and ECCV Caption, by COCO's ids.

    Raises DatasetError when the package `eccv-caption` is not installed.
    """
    listed = {(str(caption), str(image)) for caption, image in karpathy_test_captions(otherwise=OTHERWISE).items()}
    ids, owners = cache.image_ids, cache.caption_images.tolist()
    pairs = ((caption, ids[owner]) for caption, owner in zip(cache.caption_ids, owners, strict=True))
    return np.array([pair in listed for pair in pairs], dtype=bool)


def known_matches(
    cache: FeatureCache, truth: str, *, image_rows: np.ndarray, text_rows: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The matching pairs of a gallery, as in Fold.matches, in the order of their positions.

    truth       cxc or eccv, as in karpathy_ids.matching_ids
    image_rows  (N,) the gallery's images
    text_rows   (M,) the gallery's captions

    Returns {"t2i": (caption positions, image positions), "i2t": (image positions, caption positions)}, each (P,). Pairs
    with a side outside the gallery are left out; an item without a match is not a query.

    Raises DatasetError when the package `eccv-caption` is not installed.
    """
    places = {
        "image": {cache.image_ids[row]: place for place, row in enumerate(image_rows)},
        "text": {cache.caption_ids[row]: place for place, row in enumerate(text_rows)},
    }
    sides = {"t2i": ("text", "image"), "i2t": ("image", "text")}
    pairs = matching_ids(truth, otherwise=OTHERWISE)
    return {
        direction: _positions(pairs[direction], places[asking], places[gallery])
        for direction, (asking, gallery) in sides.items()
    }


def equal_text_matches(
    cache: FeatureCache, text_rows: np.ndarray, *, caption_images: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The matching pairs of a gallery, as in Fold.matches, when captions with equal texts match all of their images.

    text_rows       (M,) the gallery's captions; texts are equal if their FeatureCache.text_digests are
    caption_images  (M,) the position of each caption's image

    Raises UsageError when there are too many pairs to rank.
    """
    texts = np.unique(cache.text_digests(text_rows), return_inverse=True)[1]
    owned = np.unique(np.stack([caption_images, texts]), axis=1)
    images, texts_of_images = owned
    pairs = int(np.bincount(texts_of_images)[texts].sum())
    if pairs > _MOST_PAIRS:
        raise UsageError(
            f"--protocol split-equal-texts: captions of {cache.path} that are the same text make {pairs:,} matching "
            f"pairs, over {_MOST_PAIRS:,}; too few different texts for a retrieval test; choose --protocol split."
        )
    captions, matching = _pairs_of_equals(texts, texts_of_images)
    owners, places = _pairs_of_equals(texts_of_images, texts)
    owners = images[owners]
    # The order of the pairs is part of a protocol's digest, and the numbers of the texts differ between processes.
    order = np.lexsort((places, owners))
    return {"t2i": (captions, images[matching]), "i2t": (owners[order], places[order])}


def _pairs_of_equals(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) and (P,): all pairs of an index into `left` and an index into `right` with equal values, ascending."""
    order = np.argsort(right, kind="stable")
    starts, stops = (np.searchsorted(right[order], left, side=side) for side in ("left", "right"))
    counts = stops - starts
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(np.arange(len(left)), counts), order[np.repeat(starts, counts) + within]


def _positions(
    pairs: list[tuple[int, int]], queries: dict[str, int], items: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    positions = sorted(
        (queries[str(query)], items[str(item)]) for query, item in pairs if str(query) in queries and str(item) in items
    )
    table = np.array(positions, dtype=np.int64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()
