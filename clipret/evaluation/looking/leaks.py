"""Pairs of images or captions in different splits that are the same, or nearly.

Equal bytes and captions that differ in case and punctuation alone are found as they are. Near copies of images,
resized, recompressed, cropped or mirrored, are found by their features (near.py). Captions that are nearly alike by
their features are no leaks by that: where captions are made by a rule, or are short, the features of "down left arrow"
and "down right arrow" are closer than those of a copy. They are told apart.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from clipret.cache import FeatureCache
from clipret.cache.image_keys import UNKNOWN, content_keys
from clipret.config import SPLITS
from clipret.evaluation.looking.near import ORDER, near_pairs, rows_by_split
from clipret.machine.progress import ProgressCallback


def find_leaks(cache: FeatureCache, *, least: float, ratio: float, on_progress: ProgressCallback) -> list[dict]:
    """All pairs, those of equal bytes first, then near copies, the surest first, then captions.

    least  cosine of two images' features from which on they may be copies
    ratio  how far the nearest may be, of how far the next one is

    Each is kind (equal bytes, near copy, same caption), split, row, id, file and caption of one, and other_split,
    other_row, other_id, other_file and other_caption; cosine and ratio of near copies. Rows are those of images, and of
    captions where kind is same caption.
    """
    rows = rows_by_split(cache, "image")
    contents = content_keys(cache)
    leaks, known = [], set()
    for split, other in combinations(ORDER, 2):
        for row, copy in _equal(contents, rows[split], rows[other]):
            known.add((row, copy))
            leaks.append({"kind": "equal bytes", **_images(cache, row, copy)})
    near = [
        {"kind": "near copy", "cosine": cosine, "ratio": share, **_images(cache, row, copy)}
        for row, copy, cosine, share in near_pairs(cache, "image", least=least, ratio=ratio, on_progress=on_progress)
        if (row, copy) not in known
    ]
    leaks += sorted(near, key=lambda leak: leak["ratio"])
    return leaks + list(_same_captions(cache))


def find_near_captions(cache: FeatureCache, *, least: float, ratio: float, on_progress: ProgressCallback) -> list[dict]:
    """Pairs of captions of different splits that are nearly alike by their features and differ in a word, the surest
    first; those of the same words once. Fields are those of find_leaks, and kind is near caption.

    least, ratio  as of near copies
    """
    found, known, captions = [], set(), cache.captions
    for row, other, cosine, share in near_pairs(cache, "text", least=least, ratio=ratio, on_progress=on_progress):
        pair = {"kind": "near caption", "cosine": cosine, "ratio": share, **_captions(cache, row, other)}
        words = plain_words(captions[row]), plain_words(captions[other])
        key = (*words, pair["split"], pair["other_split"])
        if words[0] != words[1] and key not in known:
            known.add(key)
            found.append(pair)
    return sorted(found, key=lambda pair: pair["ratio"])


def _equal(contents: np.ndarray, rows: np.ndarray, others: np.ndarray) -> Iterator[tuple[int, int]]:
    places = {key: row for row, key in zip(others[::-1].tolist(), contents[others][::-1].tolist(), strict=True)}
    places.pop(UNKNOWN, None)
    for row, key in zip(rows.tolist(), contents[rows].tolist(), strict=True):
        if key in places:
            yield row, places[key]


def _same_captions(cache: FeatureCache) -> Iterator[dict]:
    """A pair for each caption of a split that another split has, the first of its captions that says the same."""
    first: dict[str, dict[str, int]] = defaultdict(dict)
    rows = cache.rows("text")
    splits = cache.image_splits[cache.caption_images[rows]]
    captions = cache.captions
    for row, code in zip(rows.tolist(), splits.tolist(), strict=True):
        words = plain_words(captions[row])
        if words:
            first[words].setdefault(SPLITS[code], row)
    for of_splits in first.values():
        for split, other in combinations([name for name in ORDER if name in of_splits], 2):
            row, copy = of_splits[split], of_splits[other]
            yield {"kind": "same caption", **_captions(cache, row, copy)}


def plain_words(caption: str) -> str:
    """A caption in lower case, its words alone."""
    return " ".join(re.findall(r"\w+", caption.lower()))


def _images(cache: FeatureCache, row: int, other: int) -> dict:
    return {**_image(cache, row), **{f"other_{name}": value for name, value in _image(cache, other).items()}}


def _image(cache: FeatureCache, row: int) -> dict:
    return {
        "split": SPLITS[cache.image_splits[row]],
        "row": row,
        "id": cache.image_ids[row],
        "file": cache.image_files[row],
        "caption": None,
    }


def _captions(cache: FeatureCache, row: int, other: int) -> dict:
    pairs = {"": row, "other_": other}
    return {f"{prefix}{name}": value for prefix, of in pairs.items() for name, value in _caption(cache, of).items()}


def _caption(cache: FeatureCache, row: int) -> dict:
    image = int(cache.caption_images[row])
    about = {"row": row, "id": cache.caption_ids[row], "caption": cache.captions[row]}
    return _image(cache, image) | about
