"""A finished cache, for reading."""

import json
from pathlib import Path

import h5py
import numpy as np

from clipret.cache.layout import DONE, PENDING, read_problems, require_cache
from clipret.errors import CacheError, CacheFormatError, CacheIncompleteError


class FeatureCache:
    """A finished cache, opened for reading. Features are memory-mapped; everything else is in memory.

    image_features  (N, D_image) and text_features (M, D_text): float16 or float32, not normalised
    image_ids, image_files (N strings), image_splits (N,) uint8, image_states (N,) uint8, problems {row: reason}
    captions, caption_ids (M strings), caption_images (M,) int64, tokens (M,) int16
    projections     CLIP's own head: image/weight, text/weight, logit_scale and, for ResNets, image/bias
    inputs, about   what decided the features, and what else was recorded
    fingerprint     sha256 over format and inputs
    """

    def __init__(self, path: Path | str, *, allow_incomplete: bool = False):
        """Open the cache at `path`.

        Raises CacheError when there is none, CacheFormatError when it is not one of format 1, and CacheIncompleteError,
        with the command that completes it, unless allow_incomplete.
        """
        self.path = Path(path)
        require_cache(self.path)
        with h5py.File(self.path, "r", locking=False) as file:
            self.inputs = json.loads(file.attrs["inputs"])
            self.about = json.loads(file.attrs["about"])
            self.fingerprint = str(file.attrs["fingerprint"])
            self.image_ids = list(file["image/id"].asstr()[:])
            self.image_files = list(file["image/file"].asstr()[:])
            self.image_splits = file["image/split"][:]
            self.image_states = file["image/state"][:]
            self.caption_ids = list(file["text/id"].asstr()[:])
            self.captions = list(file["text/caption"].asstr()[:])
            self.caption_images = file["text/image"][:]
            self.text_states = file["text/state"][:]
            self.tokens = file["text/tokens"][:]
            self.problems = read_problems(file, self.image_states)
            self.projections = _projections(file["projection"])
            self.image_features = _memory_map(self.path, file["image/features"])
            self.text_features = _memory_map(self.path, file["text/features"])
        if not allow_incomplete and not self.complete:
            image_todo, text_todo = (int(np.sum(states == PENDING)) for states in (self.image_states, self.text_states))
            raise CacheIncompleteError(
                f"{self.path} is incomplete: {image_todo} of {len(self.image_ids)} images and {text_todo} of "
                f"{len(self.captions)} captions are still to do; complete it with: {self.about['command']}"
            )

    @property
    def complete(self) -> bool:
        """Whether no row is left to do; unusable images count as done."""
        return bool((self.image_states != PENDING).all() and (self.text_states != PENDING).all())

    @property
    def usable(self) -> np.ndarray:
        """(N,) bool: the images that have a feature."""
        return self.image_states == DONE

    def read(self, side: str, rows: np.ndarray) -> np.ndarray:
        """Features of the given rows, (len(rows), D), in memory. Raises CacheError when one is not finite."""
        features = (self.image_features if side == "image" else self.text_features)[rows]
        broken = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(broken):
            raise CacheError(
                f"{self.path}: features of {len(broken)} {side} rows are not finite, the first of row "
                f"{rows[broken[0]]}; the cache is damaged: delete it and extract again."
            )
        return features


def _projections(group: h5py.Group) -> dict[str, np.ndarray]:
    names = ("image/weight", "image/bias", "text/weight", "logit_scale")
    return {name: group[name][()] for name in names if name in group}


def _memory_map(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    offset = dataset.id.get_offset()
    if offset is None:
        raise CacheFormatError(
            f"{path}: {dataset.name} is not stored contiguously; expected the layout that clipret extract writes."
        )
    return np.memmap(path, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)
