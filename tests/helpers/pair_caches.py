"""Caches of two encoders that were never aligned: features without projections."""

from pathlib import Path

import numpy as np

from clipret.cache import CacheContents
from tests.conftest import contents, write_cache


def pair_contents(*, images: int = 60, widths: tuple[int, int] = (24, 16), **changes) -> CacheContents:
    """As conftest's contents, without projections; widths: of image and text features."""
    values = {
        "projections": {"logit_scale": np.float32(2.66)},
        "widths": dict(zip(("image", "text"), widths, strict=True)),
        "dtype": "float32",
    }
    return contents(images=images, **(values | changes))


def write_pair_cache(path: Path, *, seed: int = 0, **changes) -> Path:
    """A complete cache in which an image and its captions have something in common."""
    return write_cache(path, pair_contents(**changes), seed=seed)


def splits(images: int, *codes: int) -> np.ndarray:
    """(N,) uint8, the codes in turn: 0 train, 1 val, 2 test."""
    return np.resize(np.array(codes, dtype=np.uint8), images)
