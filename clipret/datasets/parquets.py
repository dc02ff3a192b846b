"""Parquet files by rows: one image is read without the others, a part of one row group at a time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipret.datasets.row_files import row_errors
from clipret.errors import DatasetError

# What is decoded at once and kept, of a row group that may be the whole file.
_BATCH_BYTES = 16 << 20
_MOST_ROWS = 65_536


class ParquetRows:
    """An open Parquet file, as row_files.RowFile describes it.

    The file is mapped, not read. `cell` decodes the row group that the row is in from its start, some megabytes at a
    time, and goes on from where it is as long as rows ascend.
    """

    def __init__(self, path: Path):
        import pyarrow.parquet as parquet

        self.path = path
        with row_errors(path):
            self._file = parquet.ParquetFile(path, memory_map=True)
            self.schema = self._file.schema_arrow
            self._metadata = self._file.metadata
        counts = [self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups)]
        # The first row of each group, and after the last.
        self._starts = np.cumsum([0, *counts])
        self.num_rows = int(self._starts[-1])
        self._column = self._iterator = self._batch = None
        self._group = self._first = self._next = -1

    def batches(self, columns: list[str], *, names_of: str | None = None) -> Iterator:
        """pyarrow record batches of these columns, all rows in order. Raises DatasetError on damage.

        names_of  an image column of which the field `path` alone is read as well, where it has one
        """
        for group in range(self._metadata.num_row_groups):
            with row_errors(self.path):
                leaves = [chunk.path_in_schema for chunk in self._chunks(names_of, group)] if names_of else []
                names = [leaf for leaf in leaves if leaf != names_of and leaf.endswith(".path")]
                size = min((self._batch_size(column, group) for column in columns), default=_MOST_ROWS)
                yield from self._file.iter_batches(
                    size, row_groups=[group], columns=[*columns, *names], use_threads=False
                )

    def cell(self, column: str, row: int):
        """The pyarrow scalar in a cell. Raises DatasetError on damage."""
        if not (column == self._column and self._first <= row < self._next):
            self._seek(column, row)
        return self._batch[row - self._first]

    def nulls(self, column: str) -> int | None:
        """How many cells of an image column are null or have no bytes, by the row groups' statistics; None: unsaid."""
        total = 0
        for group in range(self._metadata.num_row_groups):
            with row_errors(self.path):
                chunks = [chunk for chunk in self._chunks(column, group) if _is_bytes(chunk, column)]
            statistics = chunks[0].statistics if len(chunks) == 1 else None
            if statistics is None or not statistics.has_null_count:
                return None
            total += statistics.null_count
        return total

    def _seek(self, column: str, row: int) -> None:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        if (column, group) != (self._column, self._group) or row < self._first:
            with row_errors(self.path):
                self._iterator = self._file.iter_batches(
                    self._batch_size(column, group), row_groups=[group], columns=[column], use_threads=False
                )
            self._column, self._group, self._next = column, group, int(self._starts[group])
            self._first = self._next
        try:
            with row_errors(self.path):
                while self._next <= row:
                    batch = next(self._iterator)
                    self._batch = batch.column(batch.schema.names.index(column))
                    self._first, self._next = self._next, self._next + batch.num_rows
        except (DatasetError, StopIteration):
            # An iterator that failed goes on nowhere.
            self._column = None
            raise DatasetError(f"{self.path} is damaged in row group {group}, at row {row:,}.") from None

    def _chunks(self, column: str, group: int) -> list:
        metadata = self._metadata.row_group(group)
        chunks = [metadata.column(place) for place in range(metadata.num_columns)]
        return [chunk for chunk in chunks if chunk.path_in_schema == column or _is_below(chunk, column)]

    def _batch_size(self, column: str, group: int) -> int:
        rows = self._metadata.row_group(group).num_rows
        size = sum(chunk.total_uncompressed_size for chunk in self._chunks(column, group))
        return max(1, min(_MOST_ROWS, rows, rows * _BATCH_BYTES // max(size, 1)))


def _is_below(chunk, column: str) -> bool:
    return chunk.path_in_schema.startswith(f"{column}.")


def _is_bytes(chunk, column: str) -> bool:
    return chunk.path_in_schema in (column, f"{column}.bytes")
