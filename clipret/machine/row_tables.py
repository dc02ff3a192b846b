"""Tables of many rows in files for pandas, DuckDB or a spreadsheet, written part by part."""

import csv
import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from clipret.errors import UsageError
from clipret.machine.escaping import csv_cell, visible_json
from clipret.machine.files import replaced

if TYPE_CHECKING:
    import pyarrow

TABLE_SUFFIXES = (".parquet", ".csv")
_ROW_GROUP = 65_536


def require_tables(option: str) -> None:
    """Raise UsageError, naming the option, when pyarrow is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError(f"{option} needs the package `pyarrow`; run: pip install 'clipret[parquet]'")


def write_tables(path: Path, tables: Iterable["pyarrow.Table"]) -> None:
    """Write tables of the same columns to one file, atomically, and one in memory at a time.

    path  .parquet: row groups of 65,536 rows, compressed; .csv: lists as JSON

    Raises ValueError without tables, and OSError when the file cannot be written; an existing file is then unchanged.
    """
    write = _write_parquet if path.suffix == ".parquet" else _write_csv
    with replaced(path) as unfinished:
        write(unfinished, iter(tables))


def _write_parquet(path: Path, tables: Iterator["pyarrow.Table"]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    table = _first(tables)
    # When a file has several row groups, Arrow's reader supports lists of plain strings only.
    schema = pa.schema([pa.field(field.name, _plain(field.type)) for field in table.schema])
    with ParquetWriter(path, schema) as writer:
        while table is not None:
            for batch in table.to_batches(max_chunksize=_ROW_GROUP):
                writer.write_table(pa.Table.from_batches([batch]).cast(schema))
            table = next(tables, None)


def _write_csv(path: Path, tables: Iterator["pyarrow.Table"]) -> None:
    table = _first(tables)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.column_names)
        while table is not None:
            for batch in table.to_batches(max_chunksize=_ROW_GROUP):
                columns = [column.to_pylist() for column in batch.columns]
                writer.writerows([_cell(value) for value in row] for row in zip(*columns, strict=True))
            table = next(tables, None)


def _first(tables: Iterator["pyarrow.Table"]) -> "pyarrow.Table":
    table = next(tables, None)
    if table is None:
        raise ValueError("there is no table to write")
    return table


def _cell(value) -> object:
    # A list must stay valid JSON, which has no escape \x9b.
    return visible_json(json.dumps(value, ensure_ascii=False)) if isinstance(value, list) else csv_cell(value)


def _plain(kind: "pyarrow.DataType") -> "pyarrow.DataType":
    """Lists of strings that are stored once as lists of strings; others as they are."""
    import pyarrow as pa

    return pa.list_(pa.string()) if pa.types.is_list(kind) and pa.types.is_dictionary(kind.value_type) else kind
