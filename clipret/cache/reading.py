"""A finished cache, for reading."""

import functools
import json
from pathlib import Path

import h5py
import numpy as np

from clipret.cache.checksums import Rows
from clipret.cache.layout import DONE, NOTES, PENDING, SIDES, CacheContents, legible, read_problems, require_cache
from clipret.cache.mapping import map_array, release
from clipret.cache.raw import locate
from clipret.errors import CacheError, CacheIncompleteError

_CAPTIONS_AT_ONCE = 65_536


class FeatureCache:
    """A finished cache, opened for reading. Features are memory-mapped, strings are read when they are first asked for;
    everything else is in memory.

    image_features  (N, D_image) and text_features (M, D_text): float16 or float32, not normalised; of a cache that
                    leaves its features in shards, SegmentedArrays
    image_ids, image_files (N strings), image_splits (N,) uint8, image_states (N,) uint8, problems {row: reason}
    captions, caption_ids (M strings), caption_images (M,) int64, tokens (M,) int16
    projections     CLIP's own head: image/weight, text/weight, logit_scale and, for ResNets, image/bias
    inputs, about   what decided the features, and what else was recorded
    fingerprint     sha256 over format and inputs
    checksums       image, text -> (N,), (M,) uint32, of every row; 0: not written
    micro_batch     image, text -> the smallest number of rows that want of memory cut batches into; 0: none
    """

    def __init__(self, path: Path | str, *, allow_incomplete: bool = False):
        """Open the cache at `path`.

        Raises CacheError when there is none, CacheFormatError when it is not one of format 1, and CacheIncompleteError,
        with the command that completes it, unless allow_incomplete.
        """
        self.path = Path(path)
        require_cache(self.path)
        with legible(self.path), h5py.File(self.path, "r", locking=False) as file:
            inputs, about, self.fingerprint = (_text(file, name) for name in ("inputs", "about", "fingerprint"))
            self.inputs, self.about = json.loads(inputs), json.loads(about)
            self.image_splits = file["image/split"][:]
            self.image_states = file["image/state"][:]
            self.caption_images = file["text/image"][:]
            self.text_states = file["text/state"][:]
            self.tokens = file["text/tokens"][:]
            self.problems = read_problems(file, self.image_states)
            self.projections = _projections(file["projection"])
            self.checksums = {side: file[side]["checksum"][:] for side in SIDES}
            self.micro_batch = {side: int(file[side]["micro_batch"][0]) for side in SIDES}
            names = [f"{side}/{name}" for side in SIDES for name in ("features", NOTES[side])]
            self._places = {name: locate(self.path, file[name]) for name in names}
            self.image_features, self.text_features = (map_array(self._places[f"{side}/features"]) for side in SIDES)
        if not allow_incomplete and not self.complete:
            image_todo, text_todo = (int(np.sum(states == PENDING)) for states in (self.image_states, self.text_states))
            raise CacheIncompleteError(
                f"{self.path} is incomplete: {image_todo} of {len(self.image_states)} images and {text_todo} of "
                f"{len(self.text_states)} captions are still to do; complete it with: {self.about['command']}"
            )

    @functools.cached_property
    def image_ids(self) -> list[str]:
        """The images' ids."""
        return self._strings("image/id")

    @functools.cached_property
    def image_files(self) -> list[str]:
        """Their files, relative to the data set's root."""
        return self._strings("image/file")

    @functools.cached_property
    def caption_ids(self) -> list[str]:
        """The captions' ids."""
        return self._strings("text/id")

    @functools.cached_property
    def captions(self) -> list[str]:
        """The captions, as the data set has them."""
        return self._strings("text/caption")

    @property
    def complete(self) -> bool:
        """Whether no row is left to do; unusable images count as done."""
        return bool((self.image_states != PENDING).all() and (self.text_states != PENDING).all())

    @property
    def contents(self) -> CacheContents:
        """All of it but the features, as another cache may be made with."""
        return CacheContents(
            image_ids=self.image_ids,
            image_files=self.image_files,
            image_splits=self.image_splits,
            captions=self.captions,
            caption_ids=self.caption_ids,
            caption_images=self.caption_images,
            projections=self.projections,
            dtype=self.image_features.dtype.name,
            inputs=self.inputs,
            about=self.about,
        )

    @property
    def segmented(self) -> bool:
        """Whether the features are in other files than the cache's own."""
        places = (self._places[f"{side}/features"] for side in SIDES)
        return any(segment.path != self.path for place in places for segment in place.segments)

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

    def text_digests(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows),) int64, equal for captions that are the same text but for case and spaces, as CLIP reads them.

        Read in blocks and never held as strings, for a cache may have millions; good within this process.
        """
        digests = np.empty(len(self.caption_images), dtype=np.int64)
        with legible(self.path), h5py.File(self.path, "r", locking=False) as file:
            captions = file["text/caption"]
            for start in range(0, len(digests), _CAPTIONS_AT_ONCE):
                block = captions[start : start + _CAPTIONS_AT_ONCE].tolist()
                alike = (b" ".join(caption.lower().split()) for caption in block)
                digests[start : start + len(block)] = np.fromiter(map(hash, alike), np.int64, count=len(block))
        return digests[rows]

    def let_go(self) -> None:
        """Take what was read of the features out of this process's memory; reading goes on as before."""
        for features in (self.image_features, self.text_features):
            release(features)

    def stored(self, side: str, rows: range) -> Rows:
        """What is stored of consecutive rows of one side, in memory; nothing of it is checked."""
        span = slice(rows.start, rows.stop)
        features, notes = (self._places[f"{side}/{name}"].load(rows) for name in ("features", NOTES[side]))
        states = self.image_states if side == "image" else self.text_states
        return Rows(features, notes, states=states[span], checksums=self.checksums[side][span])

    def _strings(self, name: str) -> list[str]:
        with legible(self.path), h5py.File(self.path, "r", locking=False) as file:
            return list(file[name].asstr()[:])


def _text(file: h5py.File, name: str) -> str:
    """An attribute; raises ValueError when damage left half a character in it."""
    return str(file.attrs[name]).encode().decode()


def _projections(group: h5py.Group) -> dict[str, np.ndarray]:
    names = ("image/weight", "image/bias", "text/weight", "logit_scale")
    return {name: group[name][()] for name in names if name in group}
