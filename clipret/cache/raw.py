"""Fixed-size arrays at known places of a file, read and written without HDF5.

After a failed write, such as on a full disk, HDF5 keeps data that it cannot get rid of, and every later call fails,
closing included. A plain write fails by itself, as an OSError, and nothing else breaks.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of an array, in one piece: `offset` bytes from the start of the file at `path`."""

    path: Path
    offset: int
    rows: range


@dataclass(frozen=True)
class Place:
    """Where an array of `dtype` and `shape` lies: in segments that follow each other, one for most."""

    dtype: np.dtype
    shape: tuple[int, ...]
    segments: tuple[Segment, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes from one row to the next."""
        return self.dtype.itemsize * prod(self.shape[1:])

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return self.row_bytes * self.shape[0]

    def pieces(self, rows: np.ndarray) -> Iterator[tuple[Path, int, slice]]:
        """(file, offset, bytes of the rows' values) of each run of consecutive rows that lie in one segment.

        rows  (n,) in any order
        """
        if not len(rows):
            return
        breaks = np.diff(rows) != 1
        owners = np.zeros(len(rows), dtype=np.int64)
        if len(self.segments) > 1:
            starts = [segment.rows.start for segment in self.segments]
            owners = np.searchsorted(starts, rows, side="right") - 1
            breaks |= np.diff(owners) != 0
        cuts = (np.flatnonzero(breaks) + 1).tolist()
        for first, last in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            segment = self.segments[owners[first]]
            offset = segment.offset + (int(rows[first]) - segment.rows.start) * self.row_bytes
            yield segment.path, offset, slice(first * self.row_bytes, last * self.row_bytes)


class RawFile:
    """The arrays of one file, open for reading and writing by row. Has no state that a failed call could ruin.

    places    name -> where the array lies
    writable  whether for writing too
    changed   whether something was written that was not waited for
    """

    def __init__(self, path: Path, places: dict[str, Place], *, writable: bool = True):
        self.places, self.changed = places, False
        self._path, self._descriptors = path, {}
        paths = {path, *(segment.path for place in places.values() for segment in place.segments)}
        flags = (os.O_RDWR if writable else os.O_RDONLY) | getattr(os, "O_BINARY", 0)
        try:
            for other in paths:
                self._descriptors[other] = os.open(other, flags)
        except OSError:
            self.close()
            raise

    def read(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The given rows of an array, (len(rows), ...), in memory; consecutive ones in one go."""
        place = self.places[name]
        values = np.empty((len(rows), *place.shape[1:]), dtype=place.dtype)
        data = _bytes_of(values)
        for path, offset, span in place.pieces(rows):
            read_at(self._descriptors[path], data[span], offset=offset)
        return values

    def write(self, name: str, rows: np.ndarray, *, values: np.ndarray) -> None:
        """Put values (len(rows), ...) into the given rows of an array; consecutive ones in one go."""
        place = self.places[name]
        data = _bytes_of(np.ascontiguousarray(values, dtype=place.dtype))
        self.changed = True
        for path, offset, span in place.pieces(rows):
            write_at(self._descriptors[path], data[span], offset=offset)

    def sync(self) -> None:
        """Return when everything written is on the disk."""
        for descriptor in self._descriptors.values():
            os.fsync(descriptor)
        self.changed = False

    def is_there(self) -> bool:
        """Whether its path still names this file: it may have been removed or replaced."""
        try:
            return os.path.samestat(os.fstat(self._descriptors[self._path]), self._path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let go of the file."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)


def write_at(descriptor: int, data: memoryview, *, offset: int) -> None:
    """Write all of `data` at `offset`; the system may take it in pieces."""
    while data:
        if hasattr(os, "pwrite"):
            written = os.pwrite(descriptor, data, offset)
        else:
            os.lseek(descriptor, offset, os.SEEK_SET)
            written = os.write(descriptor, data)
        data, offset = data[written:], offset + written


def read_at(descriptor: int, into: memoryview, *, offset: int) -> None:
    """Fill `into` with what is at `offset`; raises OSError when the file ends before."""
    while into:
        if hasattr(os, "pread"):
            found = os.pread(descriptor, len(into), offset)
        else:
            os.lseek(descriptor, offset, os.SEEK_SET)
            found = os.read(descriptor, len(into))
        if not found:
            raise OSError(errno.EIO, "the file was cut short")
        into[: len(found)] = found
        into, offset = into[len(found) :], offset + len(found)


def sync_path(path: Path) -> None:
    """Return when what the file at `path` holds is on the disk."""
    with path.open("r+b") as file:
        os.fsync(file)


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk; Windows and some network disks cannot say."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _bytes_of(values: np.ndarray) -> memoryview:
    return memoryview(values.reshape(-1).view(np.uint8))
