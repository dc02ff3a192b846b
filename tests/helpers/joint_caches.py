"""Caches of the same images and captions by several encoders, the second with its rows in another order."""

from pathlib import Path

import numpy as np

from clipret.cache import CacheContents
from tests.conftest import contents, digests_of, write_cache


def member(*, seed: int, dims: tuple[int, int, int], shuffled: bool = False, bias: bool = False, **changes):
    """Contents with the images and captions of conftest's and an encoder of their own; changes: of CacheContents."""
    stored, own = contents(), contents(seed=seed, dims=dims, bias=bias)
    images, texts = np.arange(len(stored.image_ids)), np.arange(len(stored.captions))
    if shuffled:
        generator = np.random.default_rng(seed)
        images, texts = generator.permutation(images), generator.permutation(texts)
    place = np.argsort(images)
    values = {
        "image_ids": [stored.image_ids[row] for row in images],
        "image_files": [stored.image_files[row] for row in images],
        "image_splits": stored.image_splits[images],
        "captions": [stored.captions[row] for row in texts],
        "caption_ids": [f"{seed}-{row}" for row in texts],
        "caption_images": place[stored.caption_images[texts]],
        "projections": own.projections,
        "dtype": own.dtype,
        "inputs": {**own.inputs, "weights_sha256": f"{seed:02x}" * 32},
        "about": {**own.about, "model": f"encoder {seed}", "root": "nowhere"},
    }
    return CacheContents(**(values | changes))


def write_member(path: Path, stored: CacheContents, *, seed: int = 0, digests: np.ndarray | None = None) -> Path:
    """A cache of these contents; the same image has the same digest in all of them."""
    return write_cache(path, stored, seed=seed, digests=digests_of(stored.image_ids) if digests is None else digests)


def write_members(folder: Path) -> tuple[Path, Path]:
    """a.h5, whose projections have biases, and b.h5 of other widths, its rows in another order."""
    first = write_member(folder / "a.h5", member(seed=1, dims=(24, 16, 12), bias=True), seed=1)
    second = write_member(folder / "b.h5", member(seed=2, dims=(10, 14, 6), shuffled=True), seed=2)
    return first, second
