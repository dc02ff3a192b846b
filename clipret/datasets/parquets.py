"""Parquet files by rows: one image is read without the others, a part of one row group at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipret.datasets.row_files import row_errors
from clipret.datasets.row_types import holds_image
from clipret.errors import DatasetError

# What is decoded at once and kept, of a row group that may be the whole file.
_BATCH_BYTES = 16 << 20
_MOST_ROWS = 65_536


class ParquetRows:
    """An open Parquet file, as row_files.RowFile describes it.

    The file is mapped, not read. `cell` decodes the row group that the row is in from its start, some megabytes at a
    time, and goes on from where it is as long as rows ascend.

    Of the footer only what the library checks is used: asked for one column of a damaged one, it ends the process.
    """

    copies = True

    def __init__(self, path: Path):
        import pyarrow.parquet as parquet

        self.path = path
        with row_errors(path):
            self._file = parquet.ParquetFile(path, memory_map=True)
            self.schema = self._file.schema_arrow
            _ = self.schema.names
            groups = [self._file.metadata.row_group(place) for place in range(self._file.metadata.num_row_groups)]
            self._leaves = [self._file.schema.column(place).path for place in range(len(self._file.schema))]
            # The first row of each group, and after the last; and the rows of each that are decoded at once.
            self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
            self._sizes = [_batch_size(group.num_rows, group.total_byte_size) for group in groups]
        self.num_rows = int(self._starts[-1])
        self._column = self._iterator = self._batch = None
        self._group = self._first = self._next = -1

    def batches(self, columns: list[str], *, names_of: str | None = None) -> Iterator:
        """pyarrow record batches of these columns, all rows in order. Raises DatasetError on damage.

        names_of  an image column of which the field `path` alone is read as well, where it has one
        """
        names = [leaf for leaf in self._leaves if names_of and leaf == f"{names_of}.path"]
        has_images = any(holds_image(self.schema.field(column).type) for column in columns)
        for group, size in enumerate(self._sizes):
            with row_errors(self.path):
                yield from self._file.iter_batches(
                    size if has_images else _MOST_ROWS,
                    row_groups=[group],
                    columns=[*columns, *names],
                    use_threads=False,
                )

    def cell(self, column: str, row: int):
        """The pyarrow scalar in a cell. Raises DatasetError on damage."""
        if not (column == self._column and self._first <= row < self._next):
            self._seek(column, row)
        return self._batch[row - self._first]

    def _seek(self, column: str, row: int) -> None:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        try:
            with row_errors(self.path):
                if (column, group) != (self._column, self._group) or row < self._first:
                    self._iterator = self._file.iter_batches(
                        self._sizes[group], row_groups=[group], columns=[column], use_threads=False
                    )
                    self._column, self._group = column, group
                    self._first = self._next = int(self._starts[group])
                while self._next <= row:
                    batch = next(self._iterator)
                    self._batch = batch.column(batch.schema.names.index(column))
                    self._first, self._next = self._next, self._next + batch.num_rows
        except (DatasetError, StopIteration):
            # An iterator that failed goes on nowhere.
            self._column = None
            raise DatasetError(f"{self.path} is damaged in row group {group}, at row {row:,}.") from None


def _batch_size(rows: int, size: int) -> int:
    return max(1, min(_MOST_ROWS, rows, rows * _BATCH_BYTES // max(size, 1)))
