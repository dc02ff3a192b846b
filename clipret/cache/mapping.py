"""Memory maps of arrays that lie in one file or several."""

import numpy as np

from clipret.cache.raw import Place


def map_array(place: Place) -> "np.memmap | SegmentedArray":
    """The array at `place`, for reading: a memory map, or a SegmentedArray when it lies in several files."""
    maps = [
        np.memmap(
            segment.path,
            dtype=place.dtype,
            mode="r",
            offset=segment.offset,
            shape=(len(segment.rows), *place.shape[1:]),
        )
        for segment in place.segments
    ]
    return maps[0] if len(maps) == 1 else SegmentedArray(maps)


class SegmentedArray:
    """Memory maps (n, D), (m, D), ... one after the other, read as one array (n + m + ..., D).

    Indexed by a row, a slice, an array of rows or of bools; several rows come as a copy in memory. numpy.asarray reads
    all of it.
    """

    def __init__(self, maps: list[np.ndarray]):
        self.maps = maps
        self._starts = np.cumsum([0, *map(len, maps)])
        self.dtype, self.shape = maps[0].dtype, (int(self._starts[-1]), *maps[0].shape[1:])
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        if isinstance(key, (int, np.integer)):
            row = range(len(self))[key]
            owner = int(np.searchsorted(self._starts, row, side="right")) - 1
            return self.maps[owner][row - self._starts[owner]]
        if isinstance(key, slice):
            return self._take(np.arange(len(self))[key])
        rows = np.asarray(key)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"a mask of shape {rows.shape} for {len(self)} rows")
            return self._take(np.flatnonzero(rows))
        return self._take(np.arange(len(self))[rows])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array in several files is only read into memory by copying it")
        return np.concatenate(self.maps, dtype=dtype, casting="unsafe")

    def _take(self, rows: np.ndarray) -> np.ndarray:
        values = np.empty((*rows.shape, *self.shape[1:]), dtype=self.dtype)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner in np.unique(owners):
            inside = owners == owner
            values[inside] = self.maps[owner][rows[inside] - self._starts[owner]]
        return values
