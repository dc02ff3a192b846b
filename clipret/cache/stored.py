"""Rows of a cache's raw arrays, by plain reads: what is computed with is compared with its checksum first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from clipret.cache.checksums import Rows, require_none, require_whole, unfit
from clipret.cache.layout import PENDING, SIDES, UNUSABLE
from clipret.cache.raw import Place, RawFile
from clipret.cache.relations import wrong_reasons
from clipret.cache.taps import SUM, StoredTokens, Tap, read_tokens
from clipret.errors import CacheDamagedError, CacheError

_REASONS_AT_ONCE = 4096
# Rows of few bytes that are read for each one that is asked for, rather than going to each.
_MOST_BETWEEN = 4


class StoredRows:
    """What of a FeatureCache reads rows. FeatureCache sets the attributes, and says what they are."""

    path: Path
    about: dict
    image_states: np.ndarray
    text_states: np.ndarray
    checksums: dict[str, np.ndarray]
    notes: dict[str, tuple[str, ...]]
    taps: dict[str, Tap]
    _raw: RawFile
    _places: dict[str, Place]
    _token_notes: np.ndarray | None

    def _compare_once(self) -> None:
        """Remember from now on which rows were compared with their checksums."""
        self._compared = {side: np.zeros(len(self.checksums[side]), dtype=bool) for side in SIDES}
        self._compared_tokens = {side: np.zeros(len(self.checksums[side]), dtype=bool) for side in self.taps}

    def read(self, side: str, rows: np.ndarray) -> np.ndarray:
        """Features of the given rows, (len(rows), D), in memory; each row is compared with its checksum the first time.

        Raises CacheError at rows that are not what was written, or that cannot be computed with in float32: not finite,
        or so large or small that their squares are not.
        """
        rows = row_numbers(rows, total=len(self.checksums[side]))
        features = self._load(f"{side}/features", rows)
        fresh = ~self._compared[side][rows]
        if fresh.any():
            # Of rows that are all new, as most are, no copy is made.
            new_rows, values = (rows, features) if fresh.all() else (rows[fresh], features[fresh])
            command = self.about["command"]
            require_whole(self.path, side, rows=new_rows, stored=self._rows(side, new_rows, values), command=command)
            broken = np.flatnonzero(unfit(values))
            if len(broken):
                finite = np.isfinite(values[broken[0]]).all()
                wrong = "too large or too small to compute with in float32" if finite else "not finite"
                raise CacheError(
                    f"{self.path}: features of {len(broken)} {side} rows are {wrong}, the first of row "
                    f"{new_rows[broken[0]]}; the cache is damaged: delete it and extract again with: {command}"
                )
            self._compared[side][new_rows] = True
        return features

    def read_tokens(self, side: str, rows: np.ndarray) -> StoredTokens:
        """The tokens of the given rows, in memory; each row is compared with its checksum the first time.

        Raises CacheError at rows that are not what was written, and when the cache has no tokens of that side.
        """
        self.require_tokens(side)
        rows = row_numbers(rows, total=len(self.checksums[side]))
        tokens = self.stored_tokens(side, rows)
        fresh = ~self._compared_tokens[side][rows]
        if fresh.any():
            wrong = fresh & (tokens.sums() != self._narrow(f"{side}/{SUM}", rows))
            if wrong.any():
                require_none(self.path, f"tokens of {side} rows", rows=rows[wrong], command=self.about["command"])
            self._compared_tokens[side][rows] = True
        return tokens

    def stored_tokens(self, side: str, rows: np.ndarray) -> StoredTokens:
        """What is stored of the tokens of some rows, in memory; nothing of it is compared."""
        with self._legible():
            return read_tokens(self._raw, side, tap=self.taps[side], rows=rows)

    def require_tokens(self, *sides: str) -> None:
        """Raise CacheError unless the cache has the tokens of these sides."""
        for side in sides:
            if side not in self.taps:
                raise CacheError(
                    f"{self.path} has no {side} tokens, which a head of kind block reads; extract them to another "
                    f"--out with --tap {'both' if len(sides) == 2 else side}."
                )

    def stored(self, side: str, rows: range | np.ndarray) -> Rows:
        """What is stored of some rows of one side, in memory; nothing of it is compared."""
        places = np.arange(len(self.checksums[side]))[rows.start : rows.stop] if isinstance(rows, range) else rows
        return self._rows(side, places, self._load(f"{side}/features", places))

    def _rows(self, side: str, rows: np.ndarray, features: np.ndarray) -> Rows:
        states = self.image_states if side == "image" else self.text_states
        notes = {
            name: self._token_notes[rows] if name == "tokens" else self._narrow(f"{side}/{name}", rows)
            for name in self.notes[side]
        }
        return Rows(features, notes, states=states[rows], checksums=self.checksums[side][rows])

    def _reasons(self) -> tuple[dict[int, str], dict[str, np.ndarray]]:
        """problems, and the rows whose reason and state contradict each other: as relations.wrong_reasons has them."""
        problems, wrong = {}, {}
        if "problem" not in self.notes["image"]:
            return problems, wrong
        # Reasons are wide, and most images have none.
        for start in range(0, len(self.image_states), _REASONS_AT_ONCE):
            states = self.image_states[start : start + _REASONS_AT_ONCE]
            reasons = self._load("image/problem", np.arange(start, start + len(states)))
            for fault, rows in wrong_reasons(states, reasons).items():
                wrong[fault] = np.append(wrong.get(fault, np.zeros(0, dtype=np.int64)), start + rows)
            places = np.flatnonzero(states == UNUSABLE)
            problems |= {start + int(place): reasons[place].decode(errors="replace") for place in places}
        return problems, wrong

    def _narrow(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Rows of an array that has few bytes a row: what lies between them is read too where that is not much."""
        first, last = (int(rows.min()), int(rows.max())) if len(rows) else (0, 0)
        if last - first > _MOST_BETWEEN * len(rows):
            return self._load(name, rows)
        span = self._load(name, np.arange(first, last + 1)) if len(rows) else self._load(name, rows)
        return span[rows - first]

    def _once(self, name: str) -> np.ndarray | None:
        """(N, ...) of (N, 2, ...), a note of the images; None of imported ones.

        Raises CacheDamagedError where one differs from its copy.
        """
        if name not in self.notes["image"]:
            return None
        notes = self._load(f"image/{name}")
        values, copies = notes[:, 0], notes[:, 1]
        differ = (values != copies).reshape(len(values), -1).any(axis=1)
        rows = np.flatnonzero(differ & (self.image_states != PENDING))
        if len(rows):
            fault = f"{len(rows)} images with {name} that differs from its copy, the first of row {rows[0]}"
            raise CacheDamagedError(self.path, [fault], command=self.about["command"])
        return values

    def _load(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Rows of a raw array, or all, by plain reads: a map of a file that is cut short would end the process."""
        with self._legible():
            return self._raw.read(name, range(self._places[name].shape[0]) if rows is None else rows)

    @contextmanager
    def _legible(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CacheError(
                f"{self.path} cannot be read any more: {error.strerror or error}. Check it with: "
                f"clipret verify {self.path}"
            ) from error


def row_numbers(rows, *, total: int) -> np.ndarray:
    """(n,) int64, from what numpy takes as an index; no array of all rows is made where that is a block of them."""
    if isinstance(rows, slice):
        return np.arange(*rows.indices(total))
    rows = np.asarray(rows)
    if rows.dtype.kind in "iu" and (not rows.size or (rows.min() >= 0 and rows.max() < total)):
        return rows.astype(np.int64, copy=False)
    return np.arange(total)[rows]
