"""Ready-made features of one side, read in pieces: nothing of them stays in memory."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from clipret.cache.raw import read_at
from clipret.errors import DatasetError

# Of a piece: each thread has memory for one as it is read, and for one as it is stored where that is another type.
_BYTES_AT_ONCE = 1 << 24
_FLOATS = ("float16", "float32", "float64")


class Memory(threading.local):
    """Memory that each thread has for itself and uses again: fresh pages take longer than what is done with them."""

    def __init__(self):
        self._bytes = np.empty(0, dtype=np.uint8)

    def array(self, shape: tuple[int, int], dtype) -> np.ndarray:
        """An array whose values are anything; it is overwritten when the thread asks for the next one."""
        size = prod(shape) * np.dtype(dtype).itemsize
        if self._bytes.size < size:
            self._bytes = np.empty(size, dtype=np.uint8)
        return self._bytes[:size].view(dtype).reshape(shape)


# What it takes to read rows of the source, into memory where they are not there yet: done by another thread.
Read = Callable[[Memory], np.ndarray]


@dataclass(frozen=True)
class Source:
    """Features of `rows` rows, `width` wide.

    dtype   of the values as they come
    pieces  a function: first row, row after the last and what reads them, (n, width), from the first row to the last
    where   a row -> its file and place there, for messages
    """

    rows: int
    width: int
    dtype: np.dtype
    pieces: Callable[[], Iterator[tuple[int, int, Read]]]
    where: Callable[[int], str]


@dataclass(frozen=True)
class Block:
    """Rows that lie one after the other in a file.

    offset    bytes from the start of the file
    bfloat16  whether the values are the upper halves of float32, which numpy has no type for; dtype is uint16 then
    """

    path: Path
    offset: int
    rows: int
    width: int
    dtype: np.dtype
    bfloat16: bool = False

    def read(self, start: int, stop: int, memory: Memory) -> np.ndarray:
        """Rows of it. Raises DatasetError when the file ends before."""
        values = memory.array((stop - start, self.width), self.dtype)
        try:
            with self.path.open("rb", buffering=0) as file:
                offset = self.offset + start * self.width * self.dtype.itemsize
                read_at(file.fileno(), memoryview(values.reshape(-1).view(np.uint8)), offset=offset)
        except OSError as error:
            raise DatasetError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        return _from_bfloat16(values) if self.bfloat16 else values


def file_source(blocks: Sequence[Block]) -> Source:
    """Features in files one after the other. Raises DatasetError when their widths or types differ."""
    first = blocks[0]
    for block in blocks[1:]:
        if block.width != first.width:
            raise DatasetError(
                f"{block.path} is {block.width} wide, {first.path} {first.width}; all files of a side have one width."
            )
    starts = np.cumsum([0, *(block.rows for block in blocks)])

    def pieces() -> Iterator[tuple[int, int, Read]]:
        for begin, block in zip(starts.tolist(), blocks, strict=False):
            size = rows_at_once(block.width * block.dtype.itemsize)
            for start in range(0, block.rows, size):
                stop = min(start + size, block.rows)
                yield begin + start, begin + stop, partial(block.read, start, stop)

    def where(row: int) -> str:
        place = int(np.searchsorted(starts, row, side="right")) - 1
        return f"{blocks[place].path}, row {row - starts[place]}"

    # Of several types the widest.
    dtype = np.result_type(*(np.float32 if block.bfloat16 else block.dtype for block in blocks))
    return Source(int(starts[-1]), first.width, dtype, pieces, where)


def array_source(values, name: str) -> Source:
    """Features in an array (n, D), or what is sliced like one: a memory map, an HDF5 data set, a tensor.

    Raises DatasetError when it is none.
    """
    shape = tuple(getattr(values, "shape", ()))
    if len(shape) != 2:
        raise DatasetError(f"{name} has the shape {shape}; expected an array (rows, width).")
    dtype = _float_type(np.asarray(values[:0]).dtype, name)
    size = rows_at_once(shape[1] * dtype.itemsize)

    def pieces() -> Iterator[tuple[int, int, Read]]:
        for start in range(0, shape[0], size):
            stop = min(start + size, shape[0])
            yield start, stop, lambda _, start=start, stop=stop: np.asarray(values[start:stop])

    return Source(shape[0], shape[1], dtype, pieces, lambda row: f"{name}, row {row}")


def stream_source(blocks: Iterable, name: str, *, rows: int, again: Callable[[], Iterable] | None = None) -> Source:
    """Features that come in blocks (n, D), read once.

    rows   of all blocks
    again  what gives the blocks once more; None: they come once only

    Raises DatasetError when there is no block, or a block is none.
    """
    iterator = iter(blocks)
    first = next(iterator, None)
    if first is None:
        raise DatasetError(f"{name} has no blocks; expected arrays (rows, width).")
    first = _block(first, name)
    waiting = [(first, iterator)]

    def pieces() -> Iterator[tuple[int, int, Read]]:
        if waiting:
            block, others = waiting.pop()
        elif again is not None:
            others = iter(again())
            block = next(others)
        else:
            raise DatasetError(f"{name} is an iterator, whose blocks come once only; give an array instead.")
        start = 0
        while block is not None:
            block = _block(block, name)
            if block.shape[1] != first.shape[1]:
                raise DatasetError(
                    f"{name} is {block.shape[1]} wide from row {start} on, {first.shape[1]} before; expected one width."
                )
            if start + len(block) > rows:
                raise DatasetError(
                    f"{name} has more than {rows:,} rows, as many as there are of all else of this side."
                )
            for low in range(0, len(block), size):
                high = min(low + size, len(block))
                # A user's iterator may fill the same array for every block.
                values = block[low:high].copy() if again is None else block[low:high]
                yield start + low, start + high, lambda _, values=values: values
            start, block = start + len(block), next(others, None)
        if start != rows:
            raise DatasetError(f"{name} ended after {start:,} rows; expected {rows:,}.")

    size = rows_at_once(first.shape[1] * first.dtype.itemsize)
    return Source(rows, first.shape[1], first.dtype, pieces, lambda row: f"{name}, row {row}")


def selected(source: Source, keep: np.ndarray) -> Source:
    """Some rows of a source: those where keep (n,) bool is true."""

    def pieces() -> Iterator[tuple[int, int, Read]]:
        done = 0
        for start, stop, read in source.pieces():
            inside = keep[start:stop]
            count = int(np.count_nonzero(inside))
            if count:
                yield done, done + count, lambda memory, read=read, inside=inside: read(memory)[inside]
            done += count

    def where(row: int) -> str:
        return source.where(int(np.flatnonzero(keep)[row]))

    return Source(int(np.count_nonzero(keep)), source.width, source.dtype, pieces, where)


def rows_at_once(row_bytes: int) -> int:
    """How many rows make a piece."""
    return max(1, _BYTES_AT_ONCE // max(row_bytes, 1))


def _block(values, name: str) -> np.ndarray:
    block = np.asarray(values)
    if block.ndim != 2:
        raise DatasetError(f"{name} has a block of the shape {block.shape}; expected an array (rows, width).")
    _float_type(block.dtype, name)
    return block


def _float_type(dtype: np.dtype, name: str) -> np.dtype:
    """Raises DatasetError when features are anything but floats; never pickled objects."""
    if dtype.newbyteorder("=").name not in _FLOATS:
        raise DatasetError(f"{name} holds {dtype}; expected {', '.join(_FLOATS[:-1])} or {_FLOATS[-1]}.")
    return dtype


def _from_bfloat16(values: np.ndarray) -> np.ndarray:
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
