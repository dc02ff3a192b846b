"""Writing whole rows, and what says that they are there, so that a crash at any moment leaves nothing half done."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from clipret.cache.access import explained
from clipret.cache.checksums import Rows
from clipret.cache.layout import DONE, NOTES, PENDING, SIDES, UNUSABLE
from clipret.cache.raw import RawFile
from clipret.cache.taps import SUM, StoredTokens, Tap, read_tokens, write_tokens
from clipret.errors import CacheError

# Seconds between syncs to disk; a sync for every batch would be slow.
_SYNC_SECONDS = 5
_CHUNK = 4096
# Changed states (one byte each) at most so many rows apart are written in one go, with those in between.
_GAP = 4096


class RowWriter:
    """Whole rows and their states, of an existing cache or shard: the part of a CacheWriter that knows the disk."""

    def __init__(self, path: Path, raw: RawFile, *, rows: dict[str, range], about: dict, taps: Mapping[str, Tap]):
        self.path, self._raw, self.taps = path, raw, taps
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
        # Completes a forget_problems that was interrupted.
        self._forget(unusable[self._load("image", "checksum", unusable) == 0])
        for side in SIDES:
            self._recognise(side)

    def pending(self, side: str) -> np.ndarray:
        """(n,) int64, ascending: the pending rows."""
        return self.rows[side].start + np.flatnonzero(self.states[side] == PENDING)

    def stored(self, side: str, places: np.ndarray) -> Rows:
        """The stored rows at places (n,), counted from this writer's first row."""
        features, checksums = (self._load(side, name, places) for name in ("features", "checksum"))
        notes = {name: self._load(side, name, places) for name in self._notes[side]}
        return Rows(features, notes, states=self.states[side][places], checksums=checksums)

    def put(self, side: str, rows: np.ndarray, *, stored: Rows, tap: StoredTokens | None = None) -> None:
        """Write complete rows (B,) with the checksums they have. Rows that are not pending are skipped.

        tap  their tokens, where the cache has them
        """
        places = np.asarray(rows, dtype=np.int64) - self.rows[side].start
        order = np.argsort(places, kind="stable")
        order = order[self.states[side][places[order]] == PENDING]
        if not len(order):
            return
        places, stored = places[order], stored.take(order)
        self._put(side, places, stored=stored, tap=tap and tap.take(order))

    def write_ahead(self, side: str, rows: range, *, features: np.ndarray) -> bool:
        """Write the features of consecutive rows ahead of put_block, without which they are still to do.

        May be called from several threads at once, of different rows. Returns False, with nothing written, where not
        all rows are to do.
        """
        places = self._places(side, rows)
        if (self.states[side][places.start : places.stop] != PENDING).any():
            return False
        with explained(self.path):
            self._raw.write(f"{side}/features", places, values=features)
        return True

    def put_block(self, side: str, rows: range, *, stored: Rows, ahead: bool) -> None:
        """Write whole consecutive rows, as put does.

        ahead  what write_ahead returned of these rows: whether their features are written
        """
        if ahead:
            self._put(side, self._places(side, rows), stored=stored, ahead=True)
        else:
            self.put(side, np.arange(rows.start, rows.stop), stored=stored)

    def _places(self, side: str, rows: range) -> range:
        first = self.rows[side].start
        return range(rows.start - first, rows.stop - first)

    def _put(
        self,
        side: str,
        places: np.ndarray | range,
        *,
        stored: Rows,
        tap: StoredTokens | None = None,
        ahead: bool = False,
    ) -> None:
        """Write rows that are to do, at ascending places counted from this writer's first row.

        ahead  whether their features are written
        """
        assert (tap is None) == (side not in self.taps), "tokens are written where there is a place for them"
        with explained(self.path):
            if tap is not None:
                write_tokens(self._raw, side, tap=self.taps[side], rows=places, tokens=tap)
            if not ahead:
                self._raw.write(f"{side}/features", places, values=stored.features)
            # For every row: an extraction killed here may have left a reason for an image that was repaired since.
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

    def checksums(self, side: str, rows: np.ndarray | None = None) -> np.ndarray:
        """(n,) uint32, of some rows of this writer, or of all."""
        return self._load(side, "checksum", None if rows is None else rows - self.rows[side].start)

    def forget_problems(self) -> None:
        """Reset UNUSABLE rows to PENDING and clear their reasons."""
        self.sync()
        self._forget(np.flatnonzero(self.states["image"] == UNUSABLE))

    def start_sync(self, side: str, rows: range) -> None:
        """Have the system begin to write features to the disk. May be called while another thread writes."""
        self._raw.start_sync(f"{side}/features", self._places(side, rows))

    def sync(self) -> None:
        """Sync rows to disk, then write and sync their states.

        Raises CacheError when that fails, or when the file was removed or replaced.
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

    def _tokens(self, side: str, places: np.ndarray) -> StoredTokens | None:
        if side not in self.taps:
            return None
        with explained(self.path):
            return read_tokens(self._raw, side, tap=self.taps[side], rows=places)

    def _chunks(self, side: str, places: np.ndarray) -> Iterator[slice]:
        """Slices of the places whose rows fit into memory together."""
        if side in self.taps:
            return self.taps[side].chunks(places)
        return (slice(start, start + _CHUNK) for start in range(0, len(places), _CHUNK))

    def _forget(self, places: np.ndarray) -> None:
        """Reset unusable images to pending.

        Checksums are cleared first: a pending row with a valid checksum counts as complete. If the process is killed
        after that, the next writer resumes here.
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
        """Set the state of rows that a killed process wrote completely, but whose state it did not write."""
        checksums = self._load(side, "checksum")
        if not checksums.any():
            return
        waiting = np.flatnonzero((self.states[side] == PENDING) & (checksums != 0))
        for chunk in self._chunks(side, waiting):
            places = waiting[chunk]
            candidates, tap = self.stored(side, places), self._tokens(side, places)
            whole = ~candidates.mismatches()
            if tap is not None:
                whole &= tap.sums() == candidates.notes[SUM]
            candidates = replace(candidates, states=states_of(candidates.notes, count=len(places)))
            # Written again: after a failed sync the system may treat pages as synced that are not.
            rows = self.rows[side].start + places[whole]
            self.put(side, rows, stored=candidates.take(whole), tap=tap and tap.take(whole))

    def _load(self, side: str, name: str, places=None) -> np.ndarray:
        with explained(self.path):
            return self._raw.read(f"{side}/{name}", range(len(self.rows[side])) if places is None else places)

    def _sync(self) -> None:
        # After a failed sync the system may treat pages as synced that are not, so no more states are written.
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


def states_of(notes: dict[str, np.ndarray], *, count: int) -> np.ndarray:
    """(count,) uint8, states of written rows: UNUSABLE with a reason, else DONE."""
    states = np.full(count, DONE, dtype=np.uint8)
    if "problem" in notes:
        states[notes["problem"] != b""] = UNUSABLE
    return states


def _spans(changed: np.ndarray) -> Iterator[range]:
    """Ranges of the rows that changed (n,) bool, with gaps of at most _GAP rows filled in."""
    # Where runs of changed rows begin and end; a list of all rows would be long.
    edges = np.flatnonzero(changed[1:] != changed[:-1]) + 1
    edges = np.concatenate([[0] if changed[:1].any() else [], edges, [len(changed)] if changed[-1:].any() else []])
    firsts, ends = edges[::2].astype(np.int64), edges[1::2].astype(np.int64)
    apart = np.flatnonzero(firsts[1:] - ends[:-1] >= _GAP)
    if len(firsts):
        pairs = zip(firsts[np.append(0, apart + 1)].tolist(), ends[np.append(apart, -1)].tolist(), strict=True)
        yield from (range(first, end) for first, end in pairs)
