"""Pairs of images or captions in different splits that are the same, or nearly.

Equal bytes and captions that differ in case and punctuation alone are found as they are. Near copies of images,
resized, recompressed, cropped or mirrored, are found by their features: the nearest image of the other split is a copy
when it is near, and much nearer than the next one. The second is what tells a copy from another picture of the same
thing (the ratio test of Lowe, IJCV 2004, 7.1).
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from clipret.cache import FeatureCache
from clipret.cache.image_keys import UNKNOWN, content_keys
from clipret.config import SPLITS
from clipret.machine.progress import Progress, ProgressCallback
from clipret.retrieval.nearest import nearest

# Which comes first in a pair: what results are measured on.
_ORDER = ("test", "val", "restval", "train")
_QUERIES = 2048


def find_leaks(cache: FeatureCache, *, least: float, ratio: float, on_progress: ProgressCallback) -> list[dict]:
    """All pairs, those of equal bytes first, then near copies, the surest first, then captions.

    least  cosine of two images' features from which on they may be copies
    ratio  how far the nearest may be, of how far the next one is

    Each is kind (equal bytes, near copy, same caption), split, row, id, file and caption of one, and other_split,
    other_row, other_id, other_file and other_caption; cosine and ratio of near copies. Rows are those of images, and of
    captions where kind is same caption.
    """
    rows = {split: cache.rows("image", split=split) for split in _ORDER}
    contents = content_keys(cache)
    leaks, known = [], set()
    for split, other in combinations(_ORDER, 2):
        for row, copy in _equal(contents, rows[split], rows[other]):
            known.add((row, copy))
            leaks.append({"kind": "equal bytes", **_images(cache, row, copy)})
    near = [
        {"kind": "near copy", "cosine": cosine, "ratio": share, **_images(cache, row, copy)}
        for row, copy, cosine, share in _near_copies(cache, rows, least=least, ratio=ratio, on_progress=on_progress)
        if (row, copy) not in known
    ]
    leaks += sorted(near, key=lambda leak: leak["ratio"])
    return leaks + list(_same_captions(cache))


def _equal(contents: np.ndarray, rows: np.ndarray, others: np.ndarray) -> Iterator[tuple[int, int]]:
    places = {key: row for row, key in zip(others[::-1].tolist(), contents[others][::-1].tolist(), strict=True)}
    places.pop(UNKNOWN, None)
    for row, key in zip(rows.tolist(), contents[rows].tolist(), strict=True):
        if key in places:
            yield row, places[key]


def _near_copies(
    cache: FeatureCache, rows: dict[str, np.ndarray], *, least: float, ratio: float, on_progress: ProgressCallback
) -> Iterator[tuple[int, int, float, float]]:
    pairs = [(split, other) for split, other in combinations(_ORDER, 2) if len(rows[split]) and len(rows[other])]
    total, done = sum(len(rows[split]) for split, _ in pairs), 0
    units: dict[str, np.ndarray] = {}
    for split, other in pairs:
        # One split of the larger ones is in memory at a time, in half precision.
        units = {other: units[other] if other in units else _units(cache, rows[other])}
        for start in range(0, len(rows[split]), _QUERIES):
            asking = rows[split][start : start + _QUERIES]
            scores, places = nearest(_units(cache, asking).astype(np.float32), units[other], k=2)
            for row, cosines, best in zip(asking.tolist(), scores, places, strict=True):
                nearness = 1 - cosines[0]
                further = 1 - cosines[1] if len(cosines) > 1 else 2.0
                share = max(nearness, 0.0) / max(further, 1e-9)
                if cosines[0] >= least and share <= ratio:
                    yield row, int(rows[other][best[0]]), float(cosines[0]), float(share)
            done += len(asking)
            on_progress(Progress("images", done, total))


def _units(cache: FeatureCache, rows: np.ndarray) -> np.ndarray:
    """(n, D) float16 features of norm 1."""
    units = np.empty((len(rows), cache.width("image")), dtype=np.float16)
    for start in range(0, len(rows), _QUERIES):
        values = cache.read("image", rows[start : start + _QUERIES]).astype(np.float32)
        units[start : start + len(values)] = values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12)
    return units


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
        for split, other in combinations([name for name in _ORDER if name in of_splits], 2):
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
