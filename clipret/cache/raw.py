"""Fixed-size arrays at known offsets of a file, read and written without HDF5.

After a failed write, such as on a full disk, HDF5 keeps data that it cannot flush, and every later call fails, closing
included. A plain write just raises OSError.
"""

import errno
import os
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock

import numpy as np

# Linux takes memory for what a call writes in pieces up to its size. Where it has just been given back, to a virtual
# machine's host for one, large pieces of it are written to half as fast as these.
_WRITTEN_AT_ONCE = 128 << 10
# Where a system has no call for both, no other thread may seek between seeking and reading or writing.
_SEEKING = Lock()


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of an array, stored contiguously from byte `offset` of the file at `path`."""

    path: Path
    offset: int
    rows: range


@dataclass(frozen=True)
class Place:
    """Where an array of `dtype` and `shape` lies: in consecutive segments, mostly one."""

    dtype: np.dtype
    shape: tuple[int, ...]
    segments: tuple[Segment, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes from one row to the next."""
        return self.dtype.itemsize * prod(self.shape[1:])

    @property
    def size(self) -> int:
        """Bytes of the whole array."""
        return self.row_bytes * self.shape[0]

    def pieces(self, rows: np.ndarray | range) -> Iterator[tuple[Path, int, slice]]:
        """(file, offset, slice of the rows' bytes) for each run of consecutive rows that lie in one segment.

        rows  (n,) in any order, or a range of consecutive ones
        """
        if not len(rows):
            return
        if isinstance(rows, range):
            yield from self._consecutive(rows)
            return
        breaks = np.diff(rows) != 1
        owners = np.zeros(len(rows), dtype=np.int64)
        starts = np.array([segment.rows.start for segment in self.segments])
        if len(starts) > 1:
            owners = np.searchsorted(starts, rows, side="right") - 1
            breaks |= np.diff(owners) != 0
        firsts = np.concatenate([[0], np.flatnonzero(breaks) + 1])
        owners = owners[firsts]
        offsets = np.array([segment.offset for segment in self.segments])[owners]
        offsets += (rows[firsts] - starts[owners]) * self.row_bytes
        edges = [*(firsts * self.row_bytes).tolist(), len(rows) * self.row_bytes]
        for owner, offset, first, last in zip(owners.tolist(), offsets.tolist(), edges, edges[1:], strict=False):
            yield self.segments[owner].path, offset, slice(first, last)

    def _consecutive(self, rows: range) -> Iterator[tuple[Path, int, slice]]:
        for segment in self.segments:
            first, stop = max(rows.start, segment.rows.start), min(rows.stop, segment.rows.stop)
            if first < stop:
                span = slice((first - rows.start) * self.row_bytes, (stop - rows.start) * self.row_bytes)
                yield segment.path, segment.offset + (first - segment.rows.start) * self.row_bytes, span


class RawFile:
    """The arrays of one file, open for reading and writing by row. A failed call leaves it usable.

    places    name -> where the array lies
    writable  whether it is open for writing too
    changed   whether there are writes since the last sync
    """

    def __init__(self, path: Path, places: dict[str, Place], *, writable: bool = True):
        self.places, self.changed = places, False
        paths = {path, *(segment.path for place in places.values() for segment in place.segments)}
        flags = (os.O_RDWR if writable else os.O_RDONLY) | getattr(os, "O_BINARY", 0)
        self._path, self._files = path, {other: _Open(other, flags) for other in paths}

    def read(self, name: str, rows: np.ndarray | range) -> np.ndarray:
        """The given rows of an array, (len(rows), ...), in memory; consecutive ones in one go."""
        place = self.places[name]
        values = np.empty((len(rows), *place.shape[1:]), dtype=place.dtype)
        data = _bytes_of(values)
        for path, offset, span in place.pieces(rows):
            file = self._files[path]
            read_at(file.descriptor, data[span], offset=offset)
        return values

    def write(self, name: str, rows: np.ndarray | range, *, values: np.ndarray) -> None:
        """Write values (len(rows), ...) to the given rows of an array; consecutive ones in one go."""
        place = self.places[name]
        data = _bytes_of(np.ascontiguousarray(values, dtype=place.dtype))
        self.changed = True
        for path, offset, span in place.pieces(rows):
            file = self._files[path]
            write_at(file.descriptor, data[span], offset=offset)

    def start_sync(self, name: str, rows: range) -> None:
        """Have the system begin to write rows to the disk, where it can, without waiting: a later sync waits less.

        Unlike a sync it is never told of a failure, so that the later sync is.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        for path, offset, span in self.places[name].pieces(rows):
            # What is not on the disk yet is not let go of, but written.
            advice, file = (offset, span.stop - span.start, os.POSIX_FADV_DONTNEED), self._files[path]
            with suppress(OSError):
                os.posix_fadvise(file.descriptor, *advice)

    def sync(self) -> None:
        """Sync all writes to disk."""
        for file in self._files.values():
            os.fsync(file.descriptor)
        self.changed = False

    def is_there(self) -> bool:
        """Whether the path still is this file; it may have been removed or replaced."""
        try:
            return os.path.samestat(os.fstat(self._files[self._path].descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close the file, or, where another thread is in the middle of a call, have that thread close it after it."""
        self._files = {}


class _Open:
    """A file that is open until nobody uses it any more.

    Whoever calls the system with its number keeps the object meanwhile. Of a number that is closed the system makes the
    number of the next file that anybody opens, and the rest of a write would go there.
    """

    def __init__(self, path: Path, flags: int):
        self.descriptor = os.open(path, flags)
        weakref.finalize(self, os.close, self.descriptor)


def write_at(descriptor: int, data: memoryview, *, offset: int) -> None:
    """Write all of `data` at `offset`, with as many system calls as that takes."""
    while data:
        some = data[:_WRITTEN_AT_ONCE]
        if hasattr(os, "pwrite"):
            written = os.pwrite(descriptor, some, offset)
        else:
            with _SEEKING:
                os.lseek(descriptor, offset, os.SEEK_SET)
                written = os.write(descriptor, some)
        data, offset = data[written:], offset + written


def read_at(descriptor: int, into: memoryview, *, offset: int) -> None:
    """Fill `into` with the bytes at `offset`; raises OSError when the file ends first."""
    while into:
        if hasattr(os, "preadv"):
            count = os.preadv(descriptor, [into], offset)
        else:
            data = _read_some(descriptor, len(into), offset=offset)
            count = len(data)
            into[:count] = data
        if not count:
            raise OSError(errno.EIO, "the file was cut short")
        into, offset = into[count:], offset + count


def _read_some(descriptor: int, count: int, *, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, offset)
    with _SEEKING:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, count)


def _bytes_of(values: np.ndarray) -> memoryview:
    return memoryview(values.reshape(-1).view(np.uint8))
