"""Items of different splits whose features are nearly the same: an exact search, block by block.

The nearest item of the other split is a copy when it is near, and much nearer than the next one that is not the same
again. The second is what tells a copy from another item of the same kind (the ratio test of Lowe, IJCV 2004, 7.1).

Against many items most queries are first shown to be near none. With p the part of a unit vector in a few directions
and r the length of the rest, x . y <= p_x . p_y + r_x r_y (Cauchy and Schwarz), which is the cosine of two much shorter
vectors, (p, r). The directions are those that hold most of the items.

Shape suffixes: N items, D width, Q queries.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from clipret.cache import FeatureCache
from clipret.config import SPLITS
from clipret.machine.progress import Progress, ProgressCallback
from clipret.retrieval.nearest import nearest

# Which comes first in a pair: what results are measured on.
ORDER = ("test", "val", "restval", "train")
_QUERIES = 2048
# From so many items on, and of features four times as wide, it is worth while to look at a few directions first.
_MANY, _DIRECTIONS = 100_000, 128
_SAMPLE = 20_000
# Of cosines in half precision.
_ROUNDING = 0.01
# The nearest may be in the other split several times. Less than this below 1 is the cosine of what is the same.
_LOOKED_AT, _SAME = 8, 1e-3


def near_pairs(
    cache: FeatureCache, side: str, *, least: float, ratio: float, on_progress: ProgressCallback
) -> Iterator[tuple[int, int, float, float]]:
    """(row, row of the other split, cosine, ratio), for every pair of splits and every item of the first.

    least  cosine of two features from which on they may be copies
    ratio  how far the nearest may be, of how far the next one is that is not the same as the nearest
    """
    rows = rows_by_split(cache, side)
    pairs = [(split, other) for split, other in combinations(ORDER, 2) if len(rows[split]) and len(rows[other])]
    total, done = sum(len(rows[split]) for split, _ in pairs), 0
    held: dict[str, _Items] = {}
    for split, other in pairs:
        # One split of the larger ones is in memory at a time, in half precision.
        held = {other: held[other] if other in held else _Items(units(cache, side, rows[other]))}
        for start in range(0, len(rows[split]), _QUERIES):
            asking = rows[split][start : start + _QUERIES]
            found = held[other].nearest(units(cache, side, asking).astype(np.float32), least=least)
            for place, copy, cosine, following in zip(*found, strict=True):
                share = max(1 - cosine, 0.0) / max(1 - following, 1e-9)
                if share <= ratio:
                    yield int(asking[place]), int(rows[other][copy]), float(cosine), float(share)
            done += len(asking)
            on_progress(Progress("images" if side == "image" else "captions", done, total))


def rows_by_split(cache: FeatureCache, side: str) -> dict[str, np.ndarray]:
    """Name of split -> the rows of the side that have a feature, ascending; captions follow their images."""
    rows = cache.rows(side)
    splits = cache.image_splits[rows if side == "image" else cache.caption_images[rows]]
    return {split: rows[splits == SPLITS.index(split)] for split in ORDER}


def units(cache: FeatureCache, side: str, rows: np.ndarray) -> np.ndarray:
    """(n, D) float16 features of norm 1."""
    values = np.empty((len(rows), cache.width(side)), dtype=np.float16)
    for start in range(0, len(rows), _QUERIES):
        part = cache.read(side, rows[start : start + _QUERIES]).astype(np.float32)
        values[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True).clip(1e-12)
    return values


class _Items:
    """Unit features (N, D) float16, and of many their short vectors."""

    def __init__(self, values: np.ndarray):
        self._values, self._directions, self._short = values, None, None
        if len(values) >= _MANY and values.shape[1] >= 4 * _DIRECTIONS:
            step = max(1, len(values) // _SAMPLE)
            sample = values[::step].astype(np.float32)
            _, vectors = np.linalg.eigh(sample.T @ sample)
            self._directions = np.ascontiguousarray(vectors[:, -_DIRECTIONS:])
            self._short = np.empty((len(values), _DIRECTIONS + 1), dtype=np.float16)
            for start in range(0, len(values), _QUERIES):
                part = values[start : start + _QUERIES].astype(np.float32)
                self._short[start : start + len(part)] = self._shortened(part)

    def nearest(self, queries: np.ndarray, *, least: float) -> tuple[np.ndarray, ...]:
        """Places of the queries that have an item of at least that cosine, the nearest of each, its cosine, and that of
        the next one that is not the same; -1 where there is none."""
        places = np.arange(len(queries))
        if self._short is not None:
            bounds, _ = nearest(self._shortened(queries), self._short, k=1)
            places = np.flatnonzero(bounds[:, 0] >= least - _ROUNDING)
        cosines, best = nearest(queries[places], self._values, k=_LOOKED_AT)
        near = np.flatnonzero(cosines[:, 0] >= least) if len(places) else places
        cosines, best = cosines[near], best[near]
        items = self._values[best].astype(np.float32)
        same = np.einsum("qkd,qd->qk", items, items[:, 0]) >= 1 - _SAME
        # Of more than are looked at, the last stands for those behind it.
        end = -1.0 if best.shape[1] == len(self._values) else cosines[:, -1:]
        candidates = np.where(same, np.broadcast_to(end, same.shape), cosines)
        return places[near], best[:, 0], cosines[:, 0], candidates.max(axis=1, initial=-1.0)

    def _shortened(self, values: np.ndarray) -> np.ndarray:
        inside = values @ self._directions
        rest = np.sqrt(np.maximum((values**2).sum(axis=1) - (inside**2).sum(axis=1), 0))
        return np.concatenate([inside, rest[:, None]], axis=1)
