"""Checks of rows of ready-made features, and writing them to the cache."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from clipret.cache.checksums import Rows, row_checksums, unfit
from clipret.cache.importing.sources import Read, Source
from clipret.cache.importing.spools import in_threads
from clipret.cache.layout import DONE, PENDING
from clipret.cache.row_sums import square_sums
from clipret.cache.writing import CacheWriter
from clipret.errors import CacheMismatchError, DatasetError
from clipret.machine.progress import Progress, ProgressCallback

# What is between a length and 1 in embeddings that were normalised in bfloat16, and rounded.
_TOLERANCE = 0.02
# Sums of squares whose rows are looked at closely.
_LOW, _HIGH = 1e-20, 1e20
# Less than 32 MiB, up to which glibc learns from what is freed.
_KEPT_BYTES = 31 << 20
# Enough at once for the disk to be busy meanwhile.
_BYTES_TO_SYNC = 64 << 20


@dataclass(frozen=True)
class RowChecks:
    """The checks of the rows of one side.

    kind       one of config.FEATURE_KINDS
    dtype      of the stored features
    projected  whether there are projections: what was normalised is behind them. Features of encoders that were never
               aligned may be normalised
    """

    source: Source
    kind: str
    dtype: np.dtype
    projected: bool

    def prepare(self, start: int, values: np.ndarray) -> Rows:
        """Rows from `start` on as they are stored. Raises DatasetError at a row that contradicts the settings."""
        with np.errstate(over="ignore"):
            features = np.ascontiguousarray(values, dtype=self.dtype)
        squares = square_sums(features)
        self._require_numbers(start, values, features=features, squares=squares)
        if self.kind != "raw":
            self._require_embeddings(start, np.sqrt(squares))
        elif self.projected and start == 0 and (np.abs(np.sqrt(squares) - 1) < _TOLERANCE).all():
            raise DatasetError(
                f"{self.source.where(0)} and the next {len(squares) - 1:,} rows have length 1, as normalised "
                f"embeddings have, and there are projections; raw features come before these: leave --projections "
                f"out, and say --kind normalised."
            )
        states = np.full(len(features), DONE, dtype=np.uint8)
        return Rows(features, {}, states=states, checksums=row_checksums(features, {}))

    def _require_numbers(self, start: int, values: np.ndarray, *, features: np.ndarray, squares: np.ndarray) -> None:
        # Also true for what is not a number.
        suspects = np.flatnonzero(~((squares == 0) | ((squares >= _LOW) & (squares <= _HIGH))))
        bad = suspects[unfit(features[suspects])] if len(suspects) else suspects
        if not len(bad):
            return
        row = int(bad[0])
        where = self.source.where(start + row)
        if not np.isfinite(values[row]).all():
            raise DatasetError(f"{where} has values that are not finite; leave the row out, or make it again.")
        if not np.isfinite(features[row]).all():
            raise DatasetError(f"{where} has values beyond what {self.dtype} holds; say --dtype float32.")
        raise DatasetError(f"{where} has values too large or too small to compute with in float32; scale the features.")

    def _require_embeddings(self, start: int, lengths: np.ndarray) -> None:
        wrong = lengths == 0 if self.kind == "final" else np.abs(lengths - 1) > _TOLERANCE
        if not wrong.any():
            return
        row = int(np.flatnonzero(wrong)[0])
        where = self.source.where(start + row)
        if lengths[row] == 0:
            raise DatasetError(f"{where} is all zeros, which no embedding is; leave the row out, or make it again.")
        raise DatasetError(
            f"{where} has length {lengths[row]:.4g}, where normalised embeddings have 1; say --kind final for "
            f"embeddings of any length, or --kind raw for features before the projections."
        )


def write_rows(writer: CacheWriter, side: str, checks: RowChecks, *, on_progress: ProgressCallback) -> None:
    """Write the rows that are to do, and compare the others with what is there.

    on_progress  called with phase "image rows" or "text rows"

    Raises DatasetError at a row that contradicts the settings, CacheMismatchError at one that has other values by now.
    """
    source = checks.source
    # glibc keeps what is freed from now on: pieces are of the same size, and fresh pages cost more than what is done.
    np.empty(_KEPT_BYTES, dtype=np.uint8)
    unsynced = 0
    with ThreadPoolExecutor(1) as disk:
        for start, stored in _prepared(checks):
            rows = range(start, start + len(stored.checksums))
            before = writer.states[side][rows.start : rows.stop] != PENDING
            if before.any():
                _require_same(writer, side, start + np.flatnonzero(before), stored=stored.take(before), source=source)
            writer.put_block(side, rows, stored=stored)
            if (rows.stop - unsynced) * source.width * checks.dtype.itemsize >= _BYTES_TO_SYNC:
                disk.submit(writer.start_sync, side, range(unsynced, rows.stop))
                unsynced = rows.stop
            on_progress(Progress(f"{side} rows", rows.stop, source.rows))


def _prepared(checks: RowChecks) -> Iterator[tuple[int, Rows]]:
    """First row and rows of every piece, in order."""

    def prepare(piece: tuple[int, int, Read]) -> tuple[int, Rows]:
        start, _, read = piece
        return start, checks.prepare(start, read())

    return in_threads(prepare, (piece for piece in checks.source.pieces() if piece[1] > piece[0]))


def _require_same(writer: CacheWriter, side: str, rows: np.ndarray, *, stored: Rows, source: Source) -> None:
    differ = writer.checksums(side, rows) != stored.checksums
    if differ.any():
        row = int(rows[differ][0])
        raise CacheMismatchError(
            f"{writer.path}: {side} row {row} was written with other values than {source.where(row)} has now. Nothing "
            f"was changed; give another --out, or delete it."
        )


def require_equal_copies(source: Source, keep: np.ndarray) -> None:
    """Raise DatasetError unless every row that is not kept equals the row before it."""
    last = None
    for start, stop, read in source.pieces():
        copies = np.flatnonzero(~keep[start:stop])
        # The last row is asked for where the next piece begins with a copy of it.
        if not len(copies) and (stop >= len(keep) or keep[stop]):
            continue
        values = read()
        before = values[copies - 1]
        if len(copies) and copies[0] == 0:
            before[0] = last
        differ = np.flatnonzero((before != values[copies]).any(axis=1))
        if len(differ):
            row = start + int(copies[differ[0]])
            raise DatasetError(
                f"{source.where(row)} differs from the row before, though the table names the same image for both; one "
                f"of them belongs to another image, or keep every row as an image of its own with --no-fold."
            )
        last = values[-1]
