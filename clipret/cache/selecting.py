"""Rows and features of one side of a cache, whole or of a split, for people's own code."""

from typing import TYPE_CHECKING

import numpy as np

from clipret.cache.layout import DONE, SIDES
from clipret.config import SPLITS
from clipret.errors import UsageError

if TYPE_CHECKING:
    import torch

    from clipret.cache.reading import FeatureCache


class FeatureArray(np.memmap):
    """Features (n, D): a numpy array, mapped from the cache's file, or in memory. What is computed of it is a plain
    array."""

    def torch(self) -> "torch.Tensor":
        """A tensor of the same values and type, in memory: of mapped features a copy, of others not."""
        import torch

        # torch has no tensors that cannot be written to.
        return torch.from_numpy(np.asarray(self) if self.flags.writeable else np.array(self))

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return array[()] if return_scalar else np.asarray(array)


def rows_of(cache: "FeatureCache", side: str, *, split: str | None) -> np.ndarray:
    """As FeatureCache.rows."""
    _require_one_of("side", side, allowed=SIDES)
    if split is not None:
        _require_one_of("split", split, allowed=SPLITS)
    usable = cache.image_states == DONE
    if split is not None:
        usable &= cache.image_splits == SPLITS.index(split)
    if side == "image":
        return np.flatnonzero(usable)
    texts = cache.text_states == DONE
    # Imported captions may come without images.
    if len(usable) or split is not None:
        texts = texts & usable[cache.caption_images] if len(usable) else np.zeros_like(texts)
    return np.flatnonzero(texts)


def features_of(cache: "FeatureCache", side: str, *, split: str | None) -> FeatureArray:
    """As FeatureCache.features."""
    _require_one_of("side", side, allowed=SIDES)
    rows = np.arange(len(cache.checksums[side])) if split is None else rows_of(cache, side, split=split)
    follow = bool(len(rows)) and int(rows[-1]) - int(rows[0]) == len(rows) - 1
    if follow:
        mapped = cache.image_features if side == "image" else cache.text_features
        if isinstance(mapped, np.memmap):
            return mapped[rows[0] : rows[-1] + 1].view(FeatureArray)
    return cache.read(side, rows).view(FeatureArray)


def _require_one_of(what: str, value: str, *, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{what} is {value!r}; expected one of: {', '.join(allowed)}.")
