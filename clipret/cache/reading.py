"""A finished cache, for reading."""

import dataclasses
import functools
import weakref
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from clipret.annotations import Annotations
from clipret.cache.columns import digest_captions, read_texts
from clipret.cache.layout import (
    DIGEST_BYTES,
    DONE,
    IMPORTED,
    NOTES,
    PENDING,
    SIDES,
    CacheContents,
    ImportedRows,
)
from clipret.cache.mapping import SegmentedArray, map_array
from clipret.cache.opening import opened_file
from clipret.cache.raw import RawFile
from clipret.cache.relations import wrong_relations
from clipret.cache.selecting import FeatureArray, features_of, rows_of
from clipret.cache.stored import StoredRows
from clipret.cache.taps import blocks_in
from clipret.errors import CacheDamagedError, CacheError, CacheIncompleteError


class FeatureCache(StoredRows):
    """A finished cache, opened for reading. Features are memory-mapped, strings are read when they are first asked for;
    everything else is in memory.

    image_features  (N, D_image) and text_features (M, D_text): float16 or float32, not normalised; of a cache that
                    leaves its features in shards, SegmentedArrays
    image_ids, image_files (N strings), image_splits (N,) uint8, image_states (N,) uint8, problems {row: reason},
    image_digests (N, 32) uint8, single_colour (N,) bool
    captions, caption_ids (M strings), caption_images (M,) int64, tokens (M,) int16
    projections     the encoder's own head: image/weight, text/weight, logit_scale and perhaps image/bias, text/bias; of
                    two encoders that were never aligned logit_scale alone
    inputs, about   what decided the features, and what else was recorded
    fingerprint     sha256 over format and inputs, of imported features also over every row
    notes           image, text -> what stands beside the features: of imported ones nothing. Their ids, files and
                    captions are sequences that make them when they are asked for
    taps            image, text -> how the tokens of its last block's input are stored (read_tokens reads them); without
                    sides whose tokens the cache does not have
    blocks          the same sides -> that last block
    checksums       image, text -> (N,), (M,) uint32, of every row; 0: not written
    micro_batch     image, text -> the smallest micro-batch, in rows, after running out of memory; 0: none
    """

    def __init__(self, path: Path | str, *, allow_incomplete: bool = False):
        """Open the cache at `path`.

        Raises CacheError when there is none, CacheFormatError when it is not one of format 1, and CacheIncompleteError,
        with the command that completes it, unless allow_incomplete.
        """
        self.path = Path(path)
        with opened_file(self.path) as source:
            self.inputs, about, self.fingerprint, _ = source.attributes
            # Where nothing says in which folder the images were, they are looked for where their names say.
            self.about = {"root": "."} | about
            self.image_splits = source.file["image/split"][:]
            self.caption_images = source.file["text/image"][:]
            self.projections = _projections(source.file["projection"])
            self._places, self.taps = source.places, source.taps
            try:
                self.blocks = blocks_in(source.file["projection"], about=self.about, taps=self.taps)
            except ValueError as error:
                raise CacheDamagedError(self.path, [str(error)], command=self.about["command"]) from None
            self._raw = RawFile(self.path, self._places, writable=False)
        weakref.finalize(self, self._raw.close)
        # Before the rest: a row is called done after all else of it was written, perhaps just now.
        self.image_states, self.text_states = (self._load(f"{side}/state") for side in SIDES)
        self.checksums = {side: self._load(f"{side}/checksum") for side in SIDES}
        self.notes = {side: tuple(name for name in NOTES[side] if f"{side}/{name}" in self._places) for side in SIDES}
        self._token_notes = self._load("text/tokens") if self.notes["text"] else None
        sizes = {side: self._load(f"{side}/micro_batch").tolist() for side in SIDES}
        self.micro_batch = {side: size for side, (size, _) in sizes.items()}
        self.problems, wrong = self._reasons()
        if self._token_notes is not None:
            wrong["captions with tokens that differ from their copy"] = np.flatnonzero(
                (self.text_states == DONE) & (self.tokens != self._token_notes[:, 1])
            )
        wrong["micro-batches that differ from their copy"] = np.flatnonzero([one != two for one, two in sizes.values()])
        self._compare_once()
        faults = [f"{len(rows)} {what}, the first of row {rows[0]}" for what, rows in wrong.items() if len(rows)]
        faults += wrong_relations(self)
        if faults:
            raise CacheDamagedError(self.path, faults, command=self.about["command"])
        if self.imported and self.complete:
            rows = ImportedRows()
            for side in SIDES:
                rows.add(self.checksums[side])
            self.fingerprint = rows.fingerprint(self.inputs)
        if not allow_incomplete and not self.complete:
            image_todo, text_todo = (int(np.sum(states == PENDING)) for states in (self.image_states, self.text_states))
            raise CacheIncompleteError(
                f"{self.path} is incomplete: {image_todo} of {len(self.image_states)} images and {text_todo} of "
                f"{len(self.text_states)} captions are still to do; complete it with: {self.about['command']}"
            )

    @functools.cached_property
    def image_features(self) -> np.memmap | SegmentedArray:
        """The images' features, mapped: for looking at. What is computed with comes by `read`, which compares it."""
        return map_array(self._places["image/features"])

    @functools.cached_property
    def text_features(self) -> np.memmap | SegmentedArray:
        """The captions' features, mapped."""
        return map_array(self._places["text/features"])

    def width(self, side: str) -> int:
        """Of a feature of that side."""
        return self._places[f"{side}/features"].shape[1]

    def rows(self, side: str, *, split: str | None = None) -> np.ndarray:
        """Rows of the images, or captions, that have a feature, ascending; of one split, or all.

        A caption has the split of its image, and is left out with it.

        Returns (n,) int64. Raises UsageError for a split that there is not.
        """
        return rows_of(self, side, split=split)

    def features(self, side: str, *, split: str | None = None) -> FeatureArray:
        """Features of image or text, (n, D), not normalised, in the type of the cache.

        Without a split those of every row, zeros where an image could not be read; of a split those of `rows`.

        Returns a FeatureArray: a numpy array that maps the file, read-only, where the rows follow each other in it, and
        otherwise, as in splits that are mixed, or features in shards, one in memory, compared with its checksums.

        Raises UsageError for a split that there is not, and CacheError as `read` does.
        """
        return features_of(self, side, split=split)

    @property
    def members(self) -> "tuple[FeatureCache, ...]":
        """The caches that stand side by side in it (joint.py): of one file itself alone."""
        return (self,)

    @property
    def imported(self) -> bool:
        """Whether the features were ready-made; nothing is known of how an encoder was used then."""
        return IMPORTED in self.inputs

    @property
    def aligned(self) -> bool:
        """Whether the features have projections to one space, so that there is a zero-shot head."""
        return "image/weight" in self.projections

    def require_pairs(self) -> None:
        """Raise CacheError when it has imported features of one side only."""
        for side, what, option in (("image", "images", "--images"), ("text", "captions", "--texts")):
            if not len(self.checksums[side]):
                raise CacheError(
                    f"{self.path} has no {what}: features of one side can be inspected, and not be trained or measured "
                    f"on; import those of the other too, with {option} FILE."
                )

    @property
    def dtype(self) -> np.dtype:
        """Of the features."""
        return self._places["image/features"].dtype

    @functools.cached_property
    def tokens(self) -> np.ndarray:
        """(M,) int16: tokens of the captions before truncation; 0 where they were not counted."""
        return np.zeros(len(self.text_states), np.int16) if self._token_notes is None else self._token_notes[:, 0]

    @functools.cached_property
    def image_ids(self) -> Sequence[str]:
        """The images' ids."""
        return read_texts(self, "image/id")

    @functools.cached_property
    def image_files(self) -> Sequence[str]:
        """Their files, relative to the data set's root."""
        return read_texts(self, "image/file")

    @functools.cached_property
    def caption_ids(self) -> Sequence[str]:
        """The captions' ids."""
        return read_texts(self, "text/id")

    @functools.cached_property
    def captions(self) -> Sequence[str]:
        """The captions, as the data set has them."""
        return read_texts(self, "text/caption")

    @functools.cached_property
    def image_digests(self) -> np.ndarray:
        """(N, 32) uint8: sha256 of the images' files; zeros where their bytes are not known."""
        digests = self._once("sha256")
        return np.broadcast_to(np.uint8(0), (len(self.image_states), DIGEST_BYTES)) if digests is None else digests

    @functools.cached_property
    def single_colour(self) -> np.ndarray:
        """(N,) bool: whether all pixels that the encoder saw are equal."""
        colours = self._once("single_colour")
        return np.broadcast_to(np.False_, len(self.image_states)) if colours is None else colours.astype(bool)

    @property
    def complete(self) -> bool:
        """Whether no row is left to do; unusable images count as done."""
        return bool((self.image_states != PENDING).all() and (self.text_states != PENDING).all())

    @property
    def annotations(self) -> Annotations:
        """The images and captions."""
        return Annotations(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Annotations)})

    @property
    def contents(self) -> CacheContents:
        """All of it but the features, as another cache may be made with."""
        return CacheContents(
            **self.annotations.columns,
            projections=self.projections,
            widths={side: self.width(side) for side in SIDES},
            dtype=self.dtype.name,
            inputs=self.inputs,
            about=self.about,
            notes=self.notes,
            taps=self.taps,
            blocks=self.blocks,
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

    def text_digests(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows),) int64, equal for captions that are the same text but for case and spaces, as CLIP reads them.

        Read in blocks and never held as strings, for a cache may have millions; good within this process.
        """
        return digest_captions(self, rows)


def _projections(group: h5py.Group) -> dict[str, np.ndarray]:
    names = ("image/weight", "image/bias", "text/weight", "text/bias", "logit_scale")
    return {name: group[name][()] for name in names if name in group}
