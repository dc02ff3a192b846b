"""Checks of rows of ready-made features, and writing them to the cache."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from clipret.cache.checksums import Rows, row_checksums, unfit
from clipret.cache.importing.sources import Memory, Read, Source
from clipret.cache.importing.spools import in_threads
from clipret.cache.layout import DONE, PENDING, ImportedRows
from clipret.cache.row_sums import square_sums
from clipret.cache.writing import CacheWriter
from clipret.errors import CacheMismatchError, DatasetError
from clipret.machine.progress import Progress, ProgressCallback

# What is between a length and 1 in embeddings that were normalised in bfloat16, and rounded.
_TOLERANCE = 0.02
# Sums of squares whose rows are looked at closely.
_LOW, _HIGH = 1e-20, 1e20
# Enough at once for the disk to be busy meanwhile.
_BYTES_TO_SYNC = 64 << 20


@dataclass(frozen=True)
class RowChecks:
    """The checks of the rows of one side.

    kind       one of config.FEATURE_KINDS
    dtype      of the stored features
    chosen     whether that type was asked for; else it is the widest of what was known before the rows were read
    projected  whether there are projections: what was normalised is behind them. Features of encoders that were never
               aligned may be normalised
    """

    source: Source
    kind: str
    dtype: np.dtype
    chosen: bool
    projected: bool

    def prepare(self, start: int, values: np.ndarray, memory: Memory) -> Rows:
        """Rows from `start` on as they are stored. Raises DatasetError at a row that contradicts the settings.

        memory  for the features, where they are not stored as they come
        """
        if values.dtype.itemsize > 2 == self.dtype.itemsize and not self.chosen:
            raise DatasetError(
                f"{self.source.where(start)} is {values.dtype.name}, and rows before are float16; say --dtype float32, "
                f"or --dtype float16 to round it and those behind."
            )
        features = values
        if values.dtype != self.dtype or not values.flags.c_contiguous:
            features = memory.array(values.shape, self.dtype)
            with np.errstate(over="ignore"):
                features[...] = values
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


def write_rows(
    writer: CacheWriter, side: str, checks: RowChecks, *, seen: ImportedRows, on_progress: ProgressCallback
) -> None:
    """Write the rows that are to do, and compare the others with what is there.

    seen         gets all of them
    on_progress  called with phase "image rows" or "text rows"

    Raises DatasetError at a row that contradicts the settings, CacheMismatchError at one that has other values by now.
    """
    source, unsynced = checks.source, 0
    as_read, as_stored = Memory(), Memory()

    def store(piece: tuple[int, int, Read]) -> tuple[range, Rows, bool]:
        start, stop, read = piece
        stored = checks.prepare(start, read(as_read), as_stored)
        ahead = writer.write_ahead(side, range(start, stop), features=stored.features)
        # The thread's memory is for its next rows.
        return range(start, stop), stored if ahead else stored.take(np.arange(stop - start)), ahead

    pieces = in_threads(store, (piece for piece in source.pieces() if piece[1] > piece[0]))
    # Closed in any case: no thread writes to a file that its writer has closed.
    with ThreadPoolExecutor(1) as disk, closing(pieces):
        for rows, stored, ahead in pieces:
            before = writer.states[side][rows.start : rows.stop] != PENDING
            if before.any():
                _require_same(
                    writer, side, rows.start + np.flatnonzero(before), stored=stored.take(before), source=source
                )
            writer.put_block(side, rows, stored=stored, ahead=ahead)
            seen.add(stored.checksums)
            if (rows.stop - unsynced) * source.width * checks.dtype.itemsize >= _BYTES_TO_SYNC:
                disk.submit(writer.start_sync, side, range(unsynced, rows.stop))
                unsynced = rows.stop
            on_progress(Progress(f"{side} rows", rows.stop, source.rows))


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
    last, memory = None, Memory()
    for start, stop, read in source.pieces():
        copies = np.flatnonzero(~keep[start:stop])
        # The last row is asked for where the next piece begins with a copy of it.
        if not len(copies) and (stop >= len(keep) or keep[stop]):
            continue
        values = read(memory)
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
        last = values[-1].copy()
