"""Parquet and Arrow files, read in batches."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from clipret.errors import DatasetError

# Ending -> how it is stored. Arrow files come with or without an index at their end.
ARROW_ENDINGS = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
_ROWS_AT_ONCE = 65_536


def columns_of(path: Path) -> dict[str, str]:
    """Column -> what it holds: text, texts (a list in a row), vectors (lists of floats), numbers or other.

    Raises DatasetError when the file cannot be read.
    """
    with _explained(path):
        if ARROW_ENDINGS[path.suffix.lower()] == "parquet":
            schema = _parquet(path).schema_arrow
        else:
            with _opened_arrow(path) as reader:
                schema = reader.schema
        return {field.name: _kind(field.type) for field in schema}


def row_count(path: Path) -> int:
    """Rows of a file."""
    with _explained(path):
        if ARROW_ENDINGS[path.suffix.lower()] == "parquet":
            return _parquet(path).metadata.num_rows
    return sum(batch.num_rows for batch in batches(path, []))


def batches(path: Path, columns: list[str]) -> Iterator:
    """Record batches with these columns, in their order. Raises DatasetError when the file cannot be read."""
    with _explained(path):
        if ARROW_ENDINGS[path.suffix.lower()] == "parquet":
            for batch in _parquet(path).iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                yield batch.select(columns)
            return
        with _opened_arrow(path) as reader:
            # A file with an index at its end has its batches by number.
            count = getattr(reader, "num_record_batches", None)
            stored = reader if count is None else map(reader.get_batch, range(count))
            for batch in stored:
                yield batch.select(columns)


def _parquet(path: Path):
    pyarrow = _pyarrow(path)
    import pyarrow.parquet as parquet

    del pyarrow
    return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)


@contextlib.contextmanager
def _opened_arrow(path: Path) -> Iterator:
    pyarrow = _pyarrow(path)
    with pyarrow.OSFile(str(path)) as file:
        try:
            reader = pyarrow.ipc.open_file(file)
        except pyarrow.ArrowInvalid:
            file.seek(0)
            reader = pyarrow.ipc.open_stream(file)
        yield reader


def _pyarrow(path: Path):
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise DatasetError(
            f"{path}: reading it needs the package `pyarrow`; run: pip install 'clipret[parquet]'"
        ) from None
    return pyarrow


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    pyarrow = _pyarrow(path)
    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DatasetError(f"{path} cannot be read: {reason}.") from None


def _kind(kind) -> str:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _kind(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or getattr(types, "is_string_view", lambda _: False)(kind):
        return "text"
    if types.is_integer(kind):
        return "numbers"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return {True: "vectors"}.get(types.is_floating(kind.value_type), f"{_kind(kind.value_type)}s")
    return "other"
