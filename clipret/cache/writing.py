"""Writing features to a cache or a shard, as its only writer."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from clipret.cache.access import explained, locked
from clipret.cache.checksums import Rows, encode_reasons, row_checksums
from clipret.cache.creating import create
from clipret.cache.layout import DIGEST_BYTES, PENDING, SIDES, CacheContents, require_same
from clipret.cache.opening import opened_file, require_part
from clipret.cache.parts import Part, shard_path
from clipret.cache.raw import RawFile
from clipret.cache.row_writing import RowWriter, states_of
from clipret.cache.taps import SUM, StoredTokens
from clipret.errors import CacheError

_BOTH = np.arange(2)


class CacheWriter(RowWriter):
    """Writes features by row to an existing cache or shard. Made by open_writer, which holds the lock.

    about     CacheContents.about of the process that created the cache
    dtype     of the features
    rows      image, text -> the range of rows in this file: all of a cache, or the part of a shard
    states    image, text -> (n,) uint8: PENDING, DONE or UNUSABLE, the current state of those rows
    problems  image row -> why it has no feature, for UNUSABLE rows
    taps      image, text -> how the tokens of that side are stored; without sides whose tokens are not

    Writes go to the operating system at once, so they survive a crash of this process. To survive a crash of the
    machine, states are written only after the features were synced to disk: every few seconds, and at the end. Complete
    rows whose state was not yet written are recognised by their checksums when the cache is opened again.

    Methods may be called from any thread, one call at a time, except where they say otherwise.
    """

    def write_images(
        self,
        rows: int | np.ndarray,
        *,
        features: np.ndarray,
        problems: dict[int, str],
        digests: np.ndarray | None = None,
        single_colour: np.ndarray | None = None,
        tap: StoredTokens | None = None,
    ) -> None:
        """Write those of the given image rows that are pending; other rows are left unchanged.

        rows           (B,) in any order, or the first of consecutive rows
        features       (B, D_image); rows with a problem get zeros instead
        problems       position in the batch -> why that image has no feature; its state becomes UNUSABLE
        digests        (B, 32) uint8, sha256 of the image files; zeros where unknown; None: all unknown
        single_colour  (B,) bool, whether the encoder sees one colour only; None: all False. Stored as False for rows
                       with a problem
        tap            the tokens of all rows, where the cache has them; rows with a problem get zeros instead
        """
        features, count = np.array(features, dtype=self.dtype), len(features)
        digests = np.zeros((count, DIGEST_BYTES)) if digests is None else digests
        colours = np.zeros(count, dtype=np.uint8) if single_colour is None else np.array(single_colour, dtype=np.uint8)
        features[list(problems)], colours[list(problems)] = 0, 0
        notes = {
            "problem": encode_reasons(problems, count=count),
            "sha256": _twice(np.asarray(digests, dtype=np.uint8)),
            "single_colour": _twice(colours),
        }
        if tap is not None and problems:
            tap = tap.without(list(problems))
        self._write("image", rows, features=features, notes=notes, tap=tap)

    def write_texts(
        self,
        rows: int | np.ndarray,
        *,
        features: np.ndarray,
        tokens: np.ndarray,
        tap: StoredTokens | None = None,
    ) -> None:
        """Write those of the given captions that are pending; other rows are left unchanged.

        rows      (B,) in any order, or the first of consecutive rows
        features  (B, D_text)
        tokens    (B,) token counts before truncation
        tap       the tokens of all rows, where the cache has them
        """
        counts = np.minimum(tokens, np.iinfo(np.int16).max).astype(np.int16)
        notes = {"tokens": _twice(counts)}
        self._write("text", rows, features=np.asarray(features, dtype=self.dtype), notes=notes, tap=tap)

    def copy_rows(self, side: str, rows: np.ndarray, sources: np.ndarray) -> None:
        """Copy feature, notes and state of the rows `sources` (B,) to those of `rows` (B,) that are pending.

        Both are rows of this writer. The sources must not be pending.
        """
        for chunk in self._chunks(side, sources - self.rows[side].start):
            places = sources[chunk] - self.rows[side].start
            assert (self.states[side][places] != PENDING).all(), "a source has nothing to copy yet"
            self.put(side, rows[chunk], stored=self.stored(side, places), tap=self._tokens(side, places))

    def micro_batch(self, side: str) -> int:
        """The smallest micro-batch, in rows, that any process used after running out of memory; 0: none ran out."""
        return int(self._load(side, "micro_batch", _BOTH)[0])

    def note_micro_batch(self, side: str, size: int) -> None:
        """Record a micro-batch of `size` rows after running out of memory; the smallest size is kept."""
        current = self.micro_batch(side)
        if current == 0 or size < current:
            with explained(self.path):
                self._raw.write(f"{side}/micro_batch", _BOTH, values=np.array([size, size]))

    def _write(
        self,
        side: str,
        rows: int | np.ndarray,
        *,
        features: np.ndarray,
        notes: dict[str, np.ndarray],
        tap: StoredTokens | None,
    ) -> None:
        if np.ndim(rows) == 0:
            rows = np.arange(rows, rows + len(features))
        if tap is not None:
            notes = notes | {SUM: tap.sums()}
        stored = Rows(features, notes, states_of(notes, count=len(features)), row_checksums(features, notes))
        self.put(side, rows, stored=stored, tap=tap)


@contextmanager
def open_writer(path: Path, contents: CacheContents, *, part: Part | None = None) -> Iterator[CacheWriter]:
    """Create the cache, or open an existing one to resume it, as its only writer.

    part  write these rows only, to a shard of their own

    Raises CacheLockedError when another process is writing it, CacheMismatchError when an existing cache was made from
    other inputs, CacheFormatError when the file is no cache, CacheError when it cannot be written or the disk is too
    full.
    """
    target = path if part is None else shard_path(path, part)
    with locked(target):
        with explained(target):
            if not target.exists():
                create(target, contents, part=part)
        with opened(target, contents, part=part) as writer:
            yield writer


@contextmanager
def opened(path: Path, contents: CacheContents, *, part: Part | None) -> Iterator[CacheWriter]:
    """The writer of the existing cache or shard at `path`. The caller holds the lock."""
    with opened_file(path, shard=part is not None) as source:
        attributes, places, taps = source.attributes, source.places, source.taps
    rows = {side: range(places[f"{side}/state"].shape[0]) for side in SIDES}
    if part is not None:
        require_part(path, attributes, part)
        rows = part.rows
    require_same(path, stored=attributes.inputs, asked=contents.inputs)
    with explained(path):
        raw = RawFile(path, places)
    try:
        writer = CacheWriter(path, raw, rows=rows, about=attributes.about, taps=taps)
        try:
            yield writer
        except BaseException:
            # The original error is more useful than one of this sync.
            with suppress(CacheError):
                writer.sync()
            raise
        writer.sync()
    finally:
        raw.close()


def _twice(values: np.ndarray) -> np.ndarray:
    """(n, ...) -> (n, 2, ...). Notes that are read without the features are stored twice, to detect damage."""
    return np.stack([values, values], axis=1)
