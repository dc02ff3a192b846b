"""Texts that wait on the disk until it is certain how many there are: arrays of a cache are made with their sizes."""

import hashlib
import os
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from clipret.cache.raw import read_at, write_at
from clipret.cache.texts import ImpliedTexts, PackedTexts
from clipret.machine.compiling import compiled

_BYTES_AT_ONCE = 1 << 24
_ROWS_AT_ONCE = 1 << 16
_THREADS = 2
_AHEAD = 3


class FileArray:
    """An array (n,) in a file without a name, longer than memory: values are added to it, and read by slices."""

    def __init__(self, folder: Path, dtype):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self.dtype, self._count = np.dtype(dtype), 0

    def append(self, values: np.ndarray) -> None:
        """Add values at its end."""
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype))
        self._count += len(values)

    def __len__(self) -> int:
        return self._count

    @property
    def shape(self) -> tuple[int]:
        """Of the array."""
        return (self._count,)

    def copy_to(self, path: Path, *, offset: int) -> None:
        """Write all of it into a file that is there."""
        self._file.flush()
        source, place, count = self._file.fileno(), 0, self._count * self.dtype.itemsize
        with path.open("r+b", buffering=0) as file:
            while place < count:
                size = min(_BYTES_AT_ONCE, count - place)
                if hasattr(os, "copy_file_range"):
                    # Within the system, where it can.
                    with suppress(OSError):
                        place += os.copy_file_range(source, file.fileno(), size, place, offset + place)
                        continue
                values = bytearray(size)
                read_at(source, memoryview(values), offset=place)
                write_at(file.fileno(), memoryview(values), offset=offset + place)
                place += size

    def __getitem__(self, key: int | slice) -> np.ndarray:
        rows = range(self._count)[key]
        if not isinstance(key, slice):
            return self[rows : rows + 1][0]
        self._file.flush()
        values = np.empty(len(rows), dtype=self.dtype)
        read_at(self._file.fileno(), memoryview(values.view(np.uint8)), offset=rows.start * self.dtype.itemsize)
        return values


class SpooledTexts(PackedTexts):
    """Texts in files without a name.

    sha256   over all of them
    digests  (n,) uint64, of each, equal where texts are; None: not asked for
    """

    def __init__(self, data: FileArray, ends: FileArray, *, sha256: str, digests: np.ndarray | None):
        super().__init__(data, ends)
        self.sha256, self.digests = sha256, digests


class TextSpool:
    """Texts that come in blocks, stored packed in files without a name.

    unique  whether it will be asked if all are different
    """

    def __init__(self, folder: Path, *, unique: bool = False):
        self._data, self._ends, self._end = FileArray(folder, np.uint8), FileArray(folder, np.int64), 0
        self._sha256, self._digests = hashlib.sha256(), [] if unique else None

    def append(self, data: np.ndarray, lengths: np.ndarray) -> None:
        """Add texts: their UTF-8, one behind the other, and how many bytes a text has."""
        ends = np.cumsum(lengths, dtype=np.int64)
        if self._digests is not None:
            self._digests.append(_digests(data, ends))
        ends += self._end
        self._data.append(data)
        self._ends.append(ends)
        self._end += len(data)
        for values in (data, ends):
            self._sha256.update(np.ascontiguousarray(values))

    def append_texts(self, texts: Sequence[str]) -> None:
        """Add strings."""
        encoded = [text.encode() for text in texts]
        self.append(np.frombuffer(b"".join(encoded), np.uint8), np.array([len(text) for text in encoded], np.int64))

    @property
    def texts(self) -> SpooledTexts:
        """All that were added."""
        digests = None if self._digests is None else np.concatenate([np.zeros(0, np.uint64), *self._digests])
        return SpooledTexts(self._data, self._ends, sha256=self._sha256.hexdigest(), digests=digests)


def spool_texts(texts: Iterable[str], folder: Path, *, unique: bool = False) -> SpooledTexts:
    """Strings of any number, as they come."""
    spool, waiting = TextSpool(folder, unique=unique), []
    for text in texts:
        waiting.append(text)
        if len(waiting) == _ROWS_AT_ONCE:
            spool.append_texts(waiting)
            waiting = []
    spool.append_texts(waiting)
    return spool.texts


def packed_blocks(texts: PackedTexts | ImpliedTexts) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """First row, bytes and ends (counted from the first of these bytes) of some hundred thousand texts at a time."""
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        if isinstance(texts, ImpliedTexts):
            stop = min(start + _ROWS_AT_ONCE, len(texts))
            none = np.empty(0, dtype=np.uint8), np.zeros(stop - start, dtype=np.int64)
            yield start, *(_written(start, stop) if texts.numbered else none)
            continue
        first = int(texts.ends[start - 1]) if start else 0
        ends = texts.ends[start : start + _ROWS_AT_ONCE]
        yield start, texts.data[first : int(ends[-1])], ends - first


def in_threads(work: Callable, items: Iterable) -> Iterator:
    """work(item) of all items, in order; the next ones are worked on meanwhile."""
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def first_repeated(texts: SpooledTexts | ImpliedTexts) -> tuple[int, int] | None:
    """Two rows with the same text, the second as early as possible; None where all differ."""
    if isinstance(texts, ImpliedTexts):
        return None
    digests = texts.digests
    ordered = np.sort(digests)
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    rows: dict[str, int] = {}
    for row in np.flatnonzero(np.isin(digests, suspects)).tolist() if len(suspects) else ():
        if (before := rows.setdefault(texts[row], row)) != row:
            return before, row
    return None


def digest_columns(columns: Sequence) -> str:
    """sha256 over columns: texts, where they are stored, and arrays."""
    digest = hashlib.sha256()
    for column in columns:
        if isinstance(column, SpooledTexts):
            digest.update(column.sha256.encode())
        elif isinstance(column, ImpliedTexts):
            digest.update(f"{len(column)} {column.numbered}".encode())
        else:
            digest.update(np.ascontiguousarray(column))
    return digest.hexdigest()


def map_blocks(texts: Sequence[str], function: Callable[[Sequence[str]], np.ndarray]) -> np.ndarray:
    """What a function makes of all texts, of some at a time, put together."""
    blocks = [function(texts[start : start + _ROWS_AT_ONCE]) for start in range(0, len(texts), _ROWS_AT_ONCE)]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.uint8)


@compiled
def _written(start, stop):
    """Numbers from start to stop in digits, one behind the other: (L,) uint8, and (n,) int64 where each ends."""
    # No int64 has more digits.
    data, ends = np.empty(19 * (stop - start), dtype=np.uint8), np.empty(stop - start, dtype=np.int64)
    end = 0
    for number in range(start, stop):
        digits, rest = 1, number // 10
        while rest:
            digits, rest = digits + 1, rest // 10
        rest = number
        for place in range(end + digits - 1, end - 1, -1):
            data[place] = 48 + rest % 10
            rest //= 10
        end += digits
        ends[number - start] = end
    return data[:end].copy(), ends


@compiled
def _digests(data, ends):
    """(n,) uint64 of texts: FNV-1a, with the bits mixed once more."""
    digests = np.empty(ends.size, dtype=np.uint64)
    start = 0
    for row in range(ends.size):
        total = np.uint64(0xCBF29CE484222325)
        for place in range(start, ends[row]):
            total = (total ^ np.uint64(data[place])) * np.uint64(0x100000001B3)
        digests[row] = total ^ (total >> np.uint64(32))
        start = ends[row]
    return digests
