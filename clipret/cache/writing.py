"""Writing features into a cache, or into a shard of one, as its only writer."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from clipret.cache.access import explained, locked
from clipret.cache.checksums import Rows, encode_reasons, row_checksums
from clipret.cache.creating import create
from clipret.cache.layout import DIGEST_BYTES, DONE, NOTES, PENDING, SIDES, UNUSABLE, CacheContents, require_same
from clipret.cache.opening import opened_file, require_part
from clipret.cache.parts import Part, shard_path
from clipret.cache.raw import RawFile
from clipret.errors import CacheError

# How long finished rows may wait to be called done on the disk: waiting for the disk at every batch would cost more.
_SYNC_SECONDS = 5
_CHUNK = 4096
# A state is a byte: up to so many between two that changed are written with them, in one go.
_GAP = 4096
_BOTH = np.arange(2)


class CacheWriter:
    """Writes features by row into a cache or shard that is there. Made by open_writer, which holds the lock.

    about     as in CacheContents, of the one who made the cache
    dtype     of the features
    rows      image, text -> the range of rows that are written here: of a cache all, of a shard its part's
    states    image, text -> (n,) uint8: PENDING, DONE or UNUSABLE, of those rows, as they are now
    problems  image row -> why it has no feature, for the rows of state 2

    What is written is in the hands of the system at once, and survives this process. To survive the machine, rows are
    called done on the disk only after their features are there: every few seconds, and at the end. Rows that were
    written whole but not yet called done are recognised by their checksums when a cache is opened again.

    Methods may be called from any thread, by one at a time.
    """

    def __init__(self, path: Path, raw: RawFile, *, rows: dict[str, range], about: dict):
        self.path, self._raw = path, raw
        self.rows, self.about, self.dtype = rows, about, raw.places["image/features"].dtype
        self._notes = {side: [name for name in NOTES[side] if f"{side}/{name}" in raw.places] for side in SIDES}
        self.states = {side: self._load(side, "state") for side in SIDES}
        self._unsaid = {side: np.zeros(len(rows[side]), dtype=bool) for side in SIDES}
        self._synced, self._lost = time.monotonic(), False
        # Imported images have no reasons, as all of them have features.
        unusable, first = np.flatnonzero(self.states["image"] == UNUSABLE), rows["image"].start
        unusable = unusable if "problem" in self._notes["image"] else unusable[:0]
        why = self._load("image", "problem", unusable).tolist() if len(unusable) else []
        reasons = zip(unusable.tolist(), why, strict=True)
        self.problems = {first + place: reason.decode(errors="replace") for place, reason in reasons}
        # What was being forgotten when the process was killed.
        self._forget(unusable[self._load("image", "checksum", unusable) == 0])
        for side in SIDES:
            self._recognise(side)

    def pending(self, side: str) -> np.ndarray:
        """(n,) int64, ascending: the rows still to do."""
        return self.rows[side].start + np.flatnonzero(self.states[side] == PENDING)

    def write_images(
        self,
        rows: int | np.ndarray,
        *,
        features: np.ndarray,
        problems: dict[int, str],
        digests: np.ndarray | None = None,
        single_colour: np.ndarray | None = None,
    ) -> None:
        """Write those of the given image rows that are still to do; the others keep what they have.

        rows           (B,) in any order, or the first of consecutive ones
        features       (B, D_image); rows with a problem get zeros instead
        problems       position in the batch -> why that image has no feature; its state becomes 2
        digests        (B, 32) uint8, sha256 of the image files' bytes; zeros, or None for all, where they are not known
        single_colour  (B,) bool, whether the encoder sees one colour only; None: of none. False with a problem
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
        self._write("image", rows, features=features, notes=notes)

    def write_texts(self, rows: int | np.ndarray, *, features: np.ndarray, tokens: np.ndarray) -> None:
        """Write those of the given captions that are still to do; the others keep what they have.

        rows      (B,) in any order, or the first of consecutive ones
        features  (B, D_text)
        tokens    (B,) before truncation
        """
        counts = np.minimum(tokens, np.iinfo(np.int16).max).astype(np.int16)
        notes = {"tokens": _twice(counts)}
        self._write("text", rows, features=np.asarray(features, dtype=self.dtype), notes=notes)

    def copy_rows(self, side: str, rows: np.ndarray, sources: np.ndarray) -> None:
        """Give rows (B,) that are to do the feature, notes and state of other rows, sources (B,).

        Both are rows of this writer, and the sources are no longer to do.
        """
        for start in range(0, len(rows), _CHUNK):
            places = sources[start : start + _CHUNK] - self.rows[side].start
            assert (self.states[side][places] != PENDING).all(), "a source has nothing to copy yet"
            self.put(side, rows[start : start + _CHUNK], stored=self.stored(side, places))

    def stored(self, side: str, places: np.ndarray) -> Rows:
        """What is stored at places (n,), counted from this writer's first row."""
        features, checksums = (self._load(side, name, places) for name in ("features", "checksum"))
        notes = {name: self._load(side, name, places) for name in self._notes[side]}
        return Rows(features, notes, states=self.states[side][places], checksums=checksums)

    def put(self, side: str, rows: np.ndarray, *, stored: Rows) -> None:
        """Write whole rows (B,), of which those still to do are taken; they keep their checksums."""
        places = np.asarray(rows, dtype=np.int64) - self.rows[side].start
        order = np.argsort(places, kind="stable")
        order = order[self.states[side][places[order]] == PENDING]
        if not len(order):
            return
        places, stored = places[order], stored.take(order)
        self._put(side, places, stored=stored)

    def put_block(self, side: str, rows: range, *, stored: Rows) -> None:
        """Write whole consecutive rows, as put does; without a copy where all are still to do."""
        places = range(rows.start - self.rows[side].start, rows.stop - self.rows[side].start)
        if (self.states[side][places.start : places.stop] == PENDING).all():
            self._put(side, places, stored=stored)
        else:
            self.put(side, np.arange(rows.start, rows.stop), stored=stored)

    def _put(self, side: str, places: np.ndarray | range, *, stored: Rows) -> None:
        """Write rows that are to do, at ascending places counted from this writer's first row."""
        with explained(self.path):
            self._raw.write(f"{side}/features", places, values=stored.features)
            # Of every row: an extraction that was killed here may have left the reason of an image mended since.
            for name, values in stored.notes.items():
                self._raw.write(f"{side}/{name}", places, values=values)
            self._raw.write(f"{side}/checksum", places, values=stored.checksums)
        where = slice(places.start, places.stop) if isinstance(places, range) else places
        self.states[side][where] = stored.states
        self._unsaid[side][where] = True
        if side == "image":
            first = self.rows[side].start
            for at in np.flatnonzero(stored.states == UNUSABLE).tolist():
                self.problems[first + int(places[at])] = stored.notes["problem"][at].decode()
        if time.monotonic() - self._synced >= _SYNC_SECONDS:
            self.sync()

    def checksums(self, side: str, rows: np.ndarray) -> np.ndarray:
        """(len(rows),) uint32, of rows of this writer."""
        return self._load(side, "checksum", rows - self.rows[side].start)

    def micro_batch(self, side: str) -> int:
        """The smallest micro-batch, in rows, that any process used after running out of memory; 0: none."""
        return int(self._load(side, "micro_batch", _BOTH)[0])

    def note_micro_batch(self, side: str, size: int) -> None:
        """Record that batches were cut into pieces of `size` rows after running out of memory; the smallest is kept."""
        current = self.micro_batch(side)
        if current == 0 or size < current:
            with explained(self.path):
                self._raw.write(f"{side}/micro_batch", _BOTH, values=np.array([size, size]))

    def forget_problems(self) -> None:
        """Set the rows of state 2 back to 0, and empty their reasons."""
        self.sync()
        self._forget(np.flatnonzero(self.states["image"] == UNUSABLE))

    def sync(self) -> None:
        """Bring what was written to the disk, then call it done there.

        Raises CacheError when that fails, or when the file is no longer where it was.
        """
        if not self._raw.changed:
            return
        self._sync()
        if any(unsaid.any() for unsaid in self._unsaid.values()):
            for side, unsaid in self._unsaid.items():
                for places in _spans(unsaid):
                    with explained(self.path):
                        values = self.states[side][places.start : places.stop]
                        self._raw.write(f"{side}/state", places, values=values)
            self._sync()
        for unsaid in self._unsaid.values():
            unsaid[:] = False
        self._synced = time.monotonic()

    def _write(self, side: str, rows: int | np.ndarray, *, features: np.ndarray, notes: dict[str, np.ndarray]) -> None:
        if np.ndim(rows) == 0:
            rows = np.arange(rows, rows + len(features))
        stored = Rows(features, notes, _states(notes, count=len(features)), row_checksums(features, notes))
        self.put(side, rows, stored=stored)

    def _forget(self, places: np.ndarray) -> None:
        """Turn unusable images back to rows to do.

        Checksums go first: a row that is to do and has its checksum would be taken for whole. Killed after that, the
        next to open the file goes on here.
        """
        for name in ("checksum", "state", *self._notes["image"]) if len(places) else ():
            with explained(self.path):
                array = self._raw.places[f"image/{name}"]
                empty = np.zeros((len(places), *array.shape[1:]), dtype=array.dtype)
                self._raw.write(f"image/{name}", places, values=empty)
            self._sync()
        self.states["image"][places] = PENDING
        for place in places.tolist():
            del self.problems[self.rows["image"].start + place]

    def _recognise(self, side: str) -> None:
        """Take rows for done, or unusable, that were written whole by a process that was killed before it said so."""
        checksums = self._load(side, "checksum")
        waiting = np.flatnonzero((self.states[side] == PENDING) & (checksums != 0))
        for start in range(0, len(waiting), _CHUNK):
            places = waiting[start : start + _CHUNK]
            candidates = self.stored(side, places)
            whole = ~candidates.mismatches()
            candidates = replace(candidates, states=_states(candidates.notes, count=len(places)))
            # Written once more: after a sync that failed the system may take them for being on the disk.
            self.put(side, self.rows[side].start + places[whole], stored=candidates.take(whole))

    def _load(self, side: str, name: str, places=None) -> np.ndarray:
        with explained(self.path):
            return self._raw.read(f"{side}/{name}", range(len(self.rows[side])) if places is None else places)

    def _sync(self) -> None:
        # After a sync that failed the system may take for written what is not; nothing more is called done then.
        if self._lost:
            raise CacheError(f"{self.path} could not be written to disk; run the same command again.")
        try:
            with explained(self.path):
                self._raw.sync()
        except CacheError:
            self._lost = True
            raise
        if not self._raw.is_there():
            raise CacheError(
                f"{self.path} was removed or replaced while it was being written; the same command starts it again."
            )


@contextmanager
def open_writer(path: Path, contents: CacheContents, *, part: Part | None = None) -> Iterator[CacheWriter]:
    """Make the cache, or open the one that is there to go on with it, as its only writer.

    part  write these rows only, to a shard of their own

    Raises CacheLockedError when another process writes it, CacheMismatchError when the cache that is there was made
    from other inputs, CacheFormatError when the file is no cache, CacheError when it cannot be written or when there is
    not enough room for it.
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
    """The writer of the cache or shard at `path`, which is there, and which the caller has locked."""
    with opened_file(path, shard=part is not None) as source:
        attributes, places = source.attributes, source.places
    rows = {side: range(places[f"{side}/state"].shape[0]) for side in SIDES}
    if part is not None:
        require_part(path, attributes, part)
        rows = part.rows
    require_same(path, stored=attributes.inputs, asked=contents.inputs)
    with explained(path):
        raw = RawFile(path, places)
    try:
        writer = CacheWriter(path, raw, rows=rows, about=attributes.about)
        try:
            yield writer
        except BaseException:
            # The error that is on its way says more than what it may have done to the file.
            with suppress(CacheError):
                writer.sync()
            raise
        writer.sync()
    finally:
        raw.close()


def _twice(values: np.ndarray) -> np.ndarray:
    """(n, ...) -> (n, 2, ...), as numbers are stored that are looked at without the features."""
    return np.stack([values, values], axis=1)


def _states(notes: dict[str, np.ndarray], *, count: int) -> np.ndarray:
    """(count,) uint8 of rows that are written: UNUSABLE with a reason, else DONE."""
    states = np.full(count, DONE, dtype=np.uint8)
    if "problem" in notes:
        states[notes["problem"] != b""] = UNUSABLE
    return states


def _spans(changed: np.ndarray) -> Iterator[range]:
    """The rows that changed (n,) bool, with those in between where few are missing."""
    rows = np.flatnonzero(changed)
    if not len(rows):
        return
    cuts = np.flatnonzero(np.diff(rows) > _GAP) + 1
    firsts, lasts = rows[np.concatenate([[0], cuts])], rows[np.concatenate([cuts - 1, [len(rows) - 1]])]
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        yield range(first, last + 1)
