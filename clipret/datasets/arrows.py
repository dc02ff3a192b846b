"""Arrow files by rows, as `datasets` keeps them: streams of record batches, or Arrow's file format; only mapped."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipret.datasets.row_files import row_errors

_FILE_MAGIC = b"ARROW1"


class ArrowRows:
    """An open Arrow file, as row_files.RowFile describes it.

    The batches are views of the mapped file: finding where they start reads their headers, and a cell reads itself.
    """

    copies = False

    def __init__(self, path: Path):
        import pyarrow

        self.path = path
        self._sound: set[int] = set()
        with row_errors(path):
            mapped = pyarrow.memory_map(str(path))
            if mapped.size() and mapped.read_at(len(_FILE_MAGIC), 0) == _FILE_MAGIC:
                reader = pyarrow.ipc.open_file(mapped)
                self._batches = [reader.get_batch(place) for place in range(reader.num_record_batches)]
            else:
                reader = pyarrow.ipc.open_stream(mapped)
                self._batches = list(reader)
            self.schema = reader.schema
            self._names = self.schema.names
        # The first row of each batch, and after the last.
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self.num_rows = int(self._starts[-1])

    def batches(self, columns: list[str], *, names_of: str | None = None) -> Iterator:
        """pyarrow record batches of these columns, and of the image column names_of, all rows in order."""
        wanted = list(dict.fromkeys([*columns, names_of] if names_of else columns))
        for place in range(len(self._batches)):
            yield self._checked(place).select(wanted)

    def cell(self, column: str, row: int):
        """The pyarrow scalar in a cell."""
        place = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._checked(place).column(self._names.index(column))[row - int(self._starts[place])]

    def _checked(self, place: int):
        """A batch whose offsets lead nowhere outside of it: Arrow follows them without looking."""
        if place not in self._sound:
            with row_errors(self.path):
                self._batches[place].validate(full=True)
            self._sound.add(place)
        return self._batches[place]
