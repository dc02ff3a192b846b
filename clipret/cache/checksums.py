"""Rows as they are stored, and the checksum that tells whether a row is whole.

Every row has one of its own, so a fault is found with its row, a row may move to another file with its checksum, and a
row whose writer was killed before it could be called done is known to be whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from zlib import crc32

import numpy as np

from clipret.cache.layout import PROBLEM_BYTES
from clipret.errors import CacheError

# Of a feature's or a projection's numbers: the squares of larger ones, added up, overflow in float32, and those of
# smaller ones vanish. A head would make zeros of either, without a word.
LARGEST, SMALLEST = 1e15, 1e-15
_SHOWN = 5
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Rows:
    """n rows of one side, as they are stored.

    features   (n, D) float16 or float32
    notes      name -> (n, ...), what stands beside the features. Of images problem (n,), the reason why there is none,
               bytes; sha256 (n, 2, 32) uint8, of the file, twice; single_colour (n, 2) uint8. Of captions tokens (n, 2)
               int16, before truncation, twice
    states     (n,) uint8
    checksums  (n,) uint32, 0 where none was written
    """

    features: np.ndarray
    notes: dict[str, np.ndarray]
    states: np.ndarray
    checksums: np.ndarray

    def take(self, places: np.ndarray) -> "Rows":
        """Some of the rows, by their places or a mask."""
        notes = {name: values[places] for name, values in self.notes.items()}
        return Rows(self.features[places], notes, states=self.states[places], checksums=self.checksums[places])

    def mismatches(self) -> np.ndarray:
        """(n,) bool: the rows that are not what their checksums were made of."""
        return row_checksums(self.features, self.notes) != self.checksums


def row_checksums(features: np.ndarray, notes: dict[str, np.ndarray]) -> np.ndarray:
    """(n,) uint32: crc32 over a row's feature, then its notes: a reason without the padding, all else as it is stored.

    Little-endian, whatever the machine's order. Never 0, which stands for a row that was not written: a crc32 of 0 is
    kept as 1.
    """
    data = np.ascontiguousarray(features, dtype=features.dtype.newbyteorder("<"))
    view, width = memoryview(data.reshape(-1).view(np.uint8)), data.itemsize * data[:1].size
    tails = enumerate(_beside(notes, count=len(data)))
    sums = [crc32(tail, crc32(view[row * width : (row + 1) * width])) or 1 for row, tail in tails]
    return np.array(sums, dtype=np.uint32)


def _beside(notes: dict[str, np.ndarray], *, count: int) -> Iterator[bytes]:
    """Of each of `count` rows its notes: texts first, then all of a fixed length."""
    texts = [values.tolist() for values in notes.values() if values.dtype.kind == "S"]
    numbers = [
        np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
        .reshape(count, prod(values.shape[1:]))
        .view(np.uint8)
        for values in notes.values()
        if values.dtype.kind != "S"
    ]
    fixed = np.concatenate(numbers, axis=1)
    view, width = fixed.tobytes(), fixed.shape[1]
    rows = (view[row * width : (row + 1) * width] for row in range(count))
    return map(b"".join, zip(*texts, rows, strict=True)) if texts else rows


def unfit(features: np.ndarray) -> np.ndarray:
    """(n,) bool: the rows of features (n, D) that cannot be computed with in float32.

    A value is not finite or beyond LARGEST, or none is beyond SMALLEST though not all are 0.
    """
    # As integers the magnitudes have the same order, with what is not a number above all.
    bits = {2: np.uint16, 4: np.uint32}[features.dtype.itemsize]
    top = min(LARGEST, float(np.finfo(features.dtype).max))
    low, high = np.array([SMALLEST, top], dtype=features.dtype).view(bits)
    magnitudes, patterns = np.zeros(len(features), dtype=bits), features.view(bits)
    # Few at a time, which stay in the processor's own memory.
    for start in range(0, len(features), _ROWS_AT_ONCE):
        span = slice(start, start + _ROWS_AT_ONCE)
        (patterns[span] & bits(np.iinfo(bits).max >> 1)).max(axis=1, out=magnitudes[span])
    return (magnitudes > high) | ((magnitudes < low) & (magnitudes > 0))


def require_whole(path: Path, side: str, *, rows: np.ndarray, stored: Rows, command: str) -> None:
    """Raise CacheError, naming the rows, unless each is what its checksum was made of.

    path, rows  the file that they were read from, and their numbers (n,)
    command     what makes the cache anew
    """
    bad = rows[stored.mismatches()].tolist()
    if bad:
        shown = ", ".join(map(str, bad[:_SHOWN])) + (", ..." if len(bad) > _SHOWN else "")
        raise CacheError(
            f"{path}: {len(bad)} {side} rows are not what was written to them: {shown}; the file is damaged: delete it "
            f"and extract again with: {command}"
        )


def encode_reasons(problems: dict[int, str], *, count: int) -> np.ndarray:
    """(count,) bytes as `/image/problem` holds them, of position -> reason; cut between characters, and never empty."""
    reasons = np.zeros(count, dtype=f"S{PROBLEM_BYTES}")
    for position, reason in problems.items():
        cut = reason.encode(errors="backslashreplace")[:PROBLEM_BYTES].decode(errors="ignore").encode()
        reasons[position] = cut.rstrip(b"\0") or b"no reason given"
    return reasons
