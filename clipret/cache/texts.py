"""Columns of texts that are no list: those that are implied, and those that lie packed, one behind the other.

A list takes some hundred bytes a text, and HDF5's strings forty. Caches of imported features may have hundreds of
millions of rows.
"""

from collections.abc import Iterator, Sequence

import numpy as np

_AT_ONCE = 65_536


class ImpliedTexts(Sequence):
    """count texts that nothing is stored of: the number of the row, or, unless numbered, nothing."""

    def __init__(self, count: int, *, numbered: bool):
        self.numbered, self._rows = numbered, range(count)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: int | slice) -> str | list[str]:
        rows = self._rows[key]
        if not isinstance(key, slice):
            return str(rows) if self.numbered else ""
        return list(map(str, rows)) if self.numbered else [""] * len(rows)


class PackedTexts(Sequence):
    """Texts in UTF-8, one behind the other.

    data  (L,) uint8, of all of them
    ends  (n,) int64, ascending: where each one ends
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray):
        self.data, self.ends = data, ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, key: int | slice) -> str | list[str]:
        rows = range(len(self.ends))[key]
        if isinstance(key, slice):
            return [self._text(row) for row in rows]
        return self._text(rows)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self.block(start, start + _AT_ONCE)

    def block(self, start: int, stop: int) -> list[str]:
        """The texts of consecutive rows."""
        ends = self.ends[start:stop].tolist()
        first = int(self.ends[start - 1]) if start else 0
        data = self.data[first : ends[-1]].tobytes() if ends else b""
        edges = [first, *ends]
        if data.isascii():
            # Decoded at once: then a byte is a character.
            text = data.decode()
            return [text[at - first : end - first] for at, end in zip(edges, ends, strict=False)]
        return [data[at - first : end - first].decode(errors="replace") for at, end in zip(edges, ends, strict=False)]

    @property
    def faulty(self) -> bool:
        """Whether the ends do not go up to the end of the data."""
        ends = self.ends
        if not len(ends):
            return bool(len(self.data))
        return bool(ends[0] < 0 or (np.diff(ends) < 0).any() or ends[-1] != len(self.data))

    def _text(self, row: int) -> str:
        first = int(self.ends[row - 1]) if row else 0
        return self.data[first : int(self.ends[row])].tobytes().decode(errors="replace")
