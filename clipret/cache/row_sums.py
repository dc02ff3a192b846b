"""CRC-32 of many short rows, compiled: zlib alone is called once a row, which for narrow rows costs more than the sums.

Sixteen bytes at a time by carry-less products, where the processor has them (folding, Gopal et al. 2009, "Fast CRC
Computation for Generic Polynomials Using PCLMULQDQ"). Elsewhere eight bytes at a time by eight tables (slicing-by-8,
Kounavis and Berry 2005), of four rows in turn, so that the processor does not wait for one row's look-ups. The values
are those of zlib.crc32.
"""

import sys
from functools import partial
from zlib import crc32

import numpy as np

from clipret.machine import instructions
from clipret.machine.compiling import compiled
from clipret.machine.instructions import fold_row, single_of_half

_POLYNOMIAL = 0xEDB88320


def _tables() -> np.ndarray:
    """(8, 256) uint32: table 0 takes a byte into the sum, table k the same with k zero bytes behind it."""
    tables = np.zeros((8, 256), dtype=np.uint32)
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, np.uint32(_POLYNOMIAL) ^ (values >> np.uint32(1)), values >> np.uint32(1))
    tables[0] = values
    for place in range(1, 8):
        before = tables[place - 1]
        tables[place] = (before >> np.uint32(8)) ^ tables[0][before & np.uint32(0xFF)]
    return tables


_TABLES = _tables()


def _shifted(bits: int) -> np.uint64:
    """The remainder of 1 with so many zero bits behind it, in the order of bits that products of 64 bits need."""
    total = np.uint32(1 << 31)
    for _ in range(bits):
        total = np.uint32(_POLYNOMIAL) ^ (total >> np.uint32(1)) if total & np.uint32(1) else total >> np.uint32(1)
    return np.uint64(int(total) << 1)


# What the halves of 16 bytes become 16 bytes further on: 128 bits, and 32 more or less for the place of a half.
_FIRST, _SECOND = _shifted(128 + 32), _shifted(128 - 32)


def crc32_rows(data: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """(n,) uint32: zlib.crc32(data[row], sums[row]) of each row.

    data  (n, width) uint8, contiguous
    sums  (n,) uint32, of what stands before; zeros at the start
    """
    if sys.byteorder == "big":
        return np.array([crc32(row, int(before)) for row, before in zip(data, sums, strict=True)], dtype=np.uint32)
    whole = data.shape[1] // 8 * 8
    front = data if whole == data.shape[1] else np.ascontiguousarray(data[:, :whole])
    # Without rows or columns there is no last axis to look at in another type.
    words = front.view(np.uint64) if front.size else np.zeros((len(data), 0), dtype=np.uint64)
    if instructions.PRODUCTS and words.shape[1] >= 2:
        return _folded_sums(words, data[:, whole:], sums, _TABLES, _FIRST, _SECOND)
    return _sums(words, data[:, whole:], sums, _TABLES)


@compiled
def _step(total, word, tables):
    """The sum after eight more bytes."""
    word ^= np.uint64(total)
    return (
        tables[7, word & np.uint64(0xFF)]
        ^ tables[6, (word >> np.uint64(8)) & np.uint64(0xFF)]
        ^ tables[5, (word >> np.uint64(16)) & np.uint64(0xFF)]
        ^ tables[4, (word >> np.uint64(24)) & np.uint64(0xFF)]
        ^ tables[3, (word >> np.uint64(32)) & np.uint64(0xFF)]
        ^ tables[2, (word >> np.uint64(40)) & np.uint64(0xFF)]
        ^ tables[1, (word >> np.uint64(48)) & np.uint64(0xFF)]
        ^ tables[0, word >> np.uint64(56)]
    )


@compiled
def _with_tail(total, tail, tables):
    """The sum after less than eight bytes more."""
    for place in range(tail.size):
        total = (total >> np.uint32(8)) ^ tables[0, (total ^ np.uint32(tail[place])) & np.uint32(0xFF)]
    return total


@compiled
def _folded_sums(words, tails, before, tables, first, second):
    """As _sums, of at least two words a row."""
    rows, width = words.shape
    sums = np.empty(rows, dtype=np.uint32)
    for row in range(rows):
        one, two = fold_row(words, row, np.uint64(~before[row]), first, second)
        total = _step(_step(np.uint32(0), one, tables), two, tables)
        if width % 2:
            total = _step(total, words[row, width - 1], tables)
        sums[row] = ~_with_tail(total, tails[row], tables)
    return sums


@compiled
def _sums(words, tails, before, tables):
    """words (n, w) uint64, tails (n, t) uint8, before (n,) uint32."""
    rows, width = words.shape
    sums = ~before
    at = 0
    while at + 4 <= rows:
        first, second, third, fourth = sums[at], sums[at + 1], sums[at + 2], sums[at + 3]
        for place in range(width):
            first = _step(first, words[at, place], tables)
            second = _step(second, words[at + 1, place], tables)
            third = _step(third, words[at + 2, place], tables)
            fourth = _step(fourth, words[at + 3, place], tables)
        sums[at], sums[at + 1], sums[at + 2], sums[at + 3] = first, second, third, fourth
        at += 4
    while at < rows:
        for place in range(width):
            sums[at] = _step(sums[at], words[at, place], tables)
        at += 1
    for row in range(rows):
        sums[row] = _with_tail(sums[row], tails[row], tables)
    return ~sums


_SQUARES: dict[str, np.ndarray] = {}


def square_sums(features: np.ndarray) -> np.ndarray:
    """(n,) float64: the sum of the squares of each row of features (n, D), float16 or float32.

    Not finite where a value is not, and nowhere else.
    """
    if features.dtype == np.float32:
        return _squares_of_singles(features)
    if instructions.HALVES:
        return _squares_of_converted(features.view(np.uint16))
    # Half the numbers of the type: of each magnitude one.
    if "float16" not in _SQUARES:
        with np.errstate(invalid="ignore"):
            _SQUARES["float16"] = np.square(np.arange(1 << 15, dtype=np.uint16).view(np.float16).astype(np.float32))
    return _squares_of_halves(features.view(np.uint16), _SQUARES["float16"])


@partial(compiled, fastmath={"reassoc", "contract"})
def _squares_of_singles(features):
    totals = np.empty(features.shape[0], dtype=np.float64)
    for row in range(features.shape[0]):
        total = 0.0
        for place in range(features.shape[1]):
            value = np.float64(features[row, place])
            total += value * value
        totals[row] = total
    return totals


@partial(compiled, fastmath={"reassoc", "contract"})
def _squares_of_converted(patterns):
    totals = np.empty(patterns.shape[0], dtype=np.float64)
    for row in range(patterns.shape[0]):
        total = np.float32(0.0)
        for place in range(patterns.shape[1]):
            value = single_of_half(patterns[row, place])
            total += value * value
        totals[row] = total
    return totals


@partial(compiled, fastmath={"reassoc", "contract"})
def _squares_of_halves(patterns, squares):
    totals = np.empty(patterns.shape[0], dtype=np.float64)
    for row in range(patterns.shape[0]):
        total = np.float32(0.0)
        for place in range(patterns.shape[1]):
            total += squares[patterns[row, place] & np.uint16(0x7FFF)]
        totals[row] = total
    return totals
