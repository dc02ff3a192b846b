"""Rows as they are stored, and the checksum that tells whether a row is whole.

Every row has one of its own, so a fault is found with its row, a row may move to another file with its checksum, and a
row whose writer was killed before it could be called done is known to be whole.
"""

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
# So many rows at once are worth the compiled loop.
_COMPILED_FROM = 2048


@dataclass(frozen=True)
class Rows:
    """n rows of one side, as they are stored.

    features   (n, D) float16 or float32
    notes      name -> (n, ...), what stands beside the features where the cache has it. Of images problem (n,), the
               reason why there is none, bytes; sha256 (n, 2, 32) uint8, of the file, twice; single_colour (n, 2) uint8.
               Of captions tokens (n, 2) int16, before truncation, twice
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
    sums = _crc32(_bytes_of(features), np.zeros(len(features), dtype=np.uint32))
    for values in notes.values():
        if values.dtype.kind == "S":
            # Few images have a reason.
            for row in np.flatnonzero(values != b"").tolist():
                sums[row] = crc32(values[row], int(sums[row]))
    beside = [_bytes_of(values) for values in notes.values() if values.dtype.kind != "S"]
    if beside:
        sums = _crc32(beside[0] if len(beside) == 1 else np.concatenate(beside, axis=1), sums)
    return np.where(sums == 0, np.uint32(1), sums)


def _bytes_of(values: np.ndarray) -> np.ndarray:
    """values (n, ...) as (n, width) uint8, little-endian."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return little.reshape(len(values), prod(values.shape[1:])).view(np.uint8)


def _crc32(data: np.ndarray, before: np.ndarray) -> np.ndarray:
    """(n,) uint32: crc32 of each row of data (n, width) uint8, going on from `before` (n,)."""
    if len(data) >= _COMPILED_FROM:
        # Takes a while to load.
        from clipret.cache.row_sums import crc32_rows

        return crc32_rows(data, before)
    view, width = memoryview(data.reshape(-1)), data.shape[1]
    rows = enumerate(before.tolist())
    return np.array([crc32(view[row * width : (row + 1) * width], start) for row, start in rows], dtype=np.uint32)


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
    require_none(path, f"{side} rows", rows=rows[stored.mismatches()], command=command)


def require_none(path: Path, what: str, *, rows: np.ndarray, command: str) -> None:
    """Raise CacheError when there are rows that are not what was written; what: `image rows`."""
    bad = rows.tolist()
    if bad:
        shown = ", ".join(map(str, bad[:_SHOWN])) + (", ..." if len(bad) > _SHOWN else "")
        raise CacheError(
            f"{path}: {len(bad)} {what} are not what was written to them: {shown}; the file is damaged: delete it "
            f"and extract again with: {command}"
        )


def encode_reasons(problems: dict[int, str], *, count: int) -> np.ndarray:
    """(count,) bytes as `/image/problem` holds them, of position -> reason; cut between characters, and never empty."""
    reasons = np.zeros(count, dtype=f"S{PROBLEM_BYTES}")
    for position, reason in problems.items():
        cut = reason.encode(errors="backslashreplace")[:PROBLEM_BYTES].decode(errors="ignore").encode()
        reasons[position] = cut.rstrip(b"\0") or b"no reason given"
    return reasons
