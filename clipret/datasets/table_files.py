"""Tables as plain rows: CSV, TSV, JSON Lines and Parquet, read one row after another and never held as a whole."""

import csv
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clipret.datasets.dialects import DELIMITERS, UTF_16, Dialect, read_dialect
from clipret.datasets.parsing import flaw, listed, read_json_lines, read_text
from clipret.errors import DatasetError

NEEDED = ("image", "caption")
# What CSV takes as it stands, quotes and all.
_QUOTED = re.compile(r' +".*"\s*', re.DOTALL)
Wanted = list[tuple[str, str | None]]


@dataclass(frozen=True)
class Table:
    """An open table.

    path     the file
    columns  names of its columns, as found; those of a JSON Lines file are the fields of its first object
    unit     what a row's number counts: line, or row
    rows     the columns to read, (our name of it, the table's or None); gives (number, their cells) of every row, once.
             A column without a name, or that the table lacks, gives None.
    remarks  what was put right in opening it, in words
    separators  what its cells are taken to be separated by, where the header might be meant otherwise

    Raises DatasetError on a column whose name is no text of one line.
    """

    path: Path
    columns: list[str]
    unit: str
    rows: Callable[[Wanted], Iterator[tuple[int, list]]]
    remarks: tuple[str, ...] = ()
    separators: str = ""

    def __post_init__(self):
        for name in self.columns:
            if fault := flaw(name, one_line=True):
                raise DatasetError(f"{self.path}: the name of a column has {fault}: {name[:60]!a}; fix it.")


def open_table(path: Path) -> Table:
    """Open a table by its ending, of ENDINGS. Raises DatasetError, now or on the way, when it is malformed."""
    return ENDINGS[path.suffix.lower()](path)


def short_names(columns: list[str]) -> str:
    """The first dozen columns, each cut to 40 characters: without a header they are whatever is in the first row."""
    return listed([name[:40] for name in columns], limit=12)


def _open_csv(path: Path, *, delimiter: str = ",") -> Table:
    dialect = read_dialect(path, usual=delimiter)
    lines = _csv_lines(path, dialect)
    _, header = next(lines, (0, None))
    if header is None:
        raise DatasetError(f"{path} is empty; expected a first line with the names of its columns.")
    columns = [name.strip() for name in header]

    def rows(wanted):
        places = [columns.index(name) if name in columns else None for _, name in wanted]
        for number, line in lines:
            if len(line) != len(columns):
                raise DatasetError(
                    f"{path}, line {number} has {len(line)} cells, expected {len(columns)} ({short_names(columns)}); "
                    f"put text with {DELIMITERS[dialect.delimiter]} or line breaks into double quotes."
                )
            cells = [None if place is None else line[place] for place in places]
            if stray := next((cell for cell in cells if cell and _QUOTED.fullmatch(cell)), None):
                raise DatasetError(
                    f"{path}, line {number}: a space before the quotes makes them a part of the text: "
                    f"{stray[:40]!a}; take the space out."
                )
            yield number, cells

    separators = DELIMITERS[dialect.delimiter] if any(sign in name for name in columns for sign in DELIMITERS) else ""
    return Table(path, columns, "line", rows, dialect.remarks, separators)


def _csv_lines(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, cells) of every row that is not blank."""
    number = 0
    try:
        with path.open(newline="", encoding=dialect.encoding) as file:
            for _ in range(dialect.skipped):
                file.readline()
            reader = csv.reader(file, delimiter=dialect.delimiter, strict=True)
            while True:
                number = dialect.skipped + reader.line_num + 1
                line = next(reader, None)
                if line is None:
                    return
                # Not what a spreadsheet leaves below its last row.
                if any(map(str.strip, line)):
                    yield number, line
    except csv.Error as error:
        raise DatasetError(
            f"{path}: the row from line {number} on is not CSV: {error}; close every double quote, and double those "
            f"within quoted text."
        ) from None
    except UnicodeError:
        if dialect.encoding == UTF_16:
            raise DatasetError(f"{path} begins as UTF-16 text and is not; save it as UTF-8.") from None
        # Decoded in chunks, the error counts from the chunk's start; read as a whole it is raised with the file's byte.
        read_text(path)
        raise
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from None


def _open_json_lines(path: Path) -> Table:
    objects = read_json_lines(path)
    first = next(objects, None)
    if first is None:
        raise DatasetError(f"{path} is empty; expected a JSON object on every line.")

    return _of_objects(path, first, objects, unit="line", fields=list(first[1]))


def list_table(path: Path, content: list) -> Table:
    """The table of a JSON file that is a list of objects, a row each. Raises DatasetError when it is anything else."""
    if not content:
        raise DatasetError(f"{path} is an empty list; expected a JSON object for every caption.")
    stranger = next((number for number, entry in enumerate(content, start=1) if not isinstance(entry, dict)), None)
    if stranger:
        kind = type(content[stranger - 1]).__name__
        raise DatasetError(f"{path}, entry {stranger}: expected a JSON object, found {kind}.")
    entries = enumerate(content, start=1)
    fields = list(dict.fromkeys(name for entry in content for name in entry))
    return _of_objects(path, next(entries), entries, unit="entry", fields=fields)


def _of_objects(
    path: Path, first: tuple[int, dict], others: Iterator[tuple[int, dict]], *, unit: str, fields: list[str]
) -> Table:
    def rows(wanted):
        for number, entry in itertools.chain([first], others):
            for ours, name in wanted:
                if ours in NEEDED and name not in entry:
                    raise DatasetError(
                        f"{path}, {unit} {number} has no `{name}`; expected the {ours} by this name in every {unit}."
                    )
            yield number, [entry.get(name) for _, name in wanted]

    return Table(path, fields, unit, rows)


def _open_parquet(path: Path) -> Table:
    return rows_table(path, [path])


def rows_table(path: Path, files: list[Path], *, splits: list[str | None] | None = None) -> Table:
    """Files of row_files.KINDS as one table.

    path    what messages call it
    splits  of each file, what its rows have as `split` where they have no such column
    """
    # An extra of its own, and slow to load.
    from clipret.datasets.row_files import open_rows

    columns = list(open_rows(files[0]).schema.names)
    if splits and any(splits) and "split" not in columns:
        columns.append("split")

    def rows(wanted):
        start = 1
        for file, split in zip(files, splits or [None] * len(files), strict=True):
            for cells in _cells_of(file, wanted, split=split):
                yield start, cells
                start += 1

    return Table(path, columns, "row", rows)


def _cells_of(path: Path, wanted: Wanted, *, split: str | None) -> Iterator[list]:
    from clipret.datasets.row_files import column_values, open_rows
    from clipret.datasets.row_types import require_type

    file = open_rows(path)
    for ours, name in wanted:
        require_type(path, file.schema, ours=ours, name=name)
    here = {name for _, name in wanted} & set(file.schema.names)
    for batch in file.batches(sorted(here)):
        read = column_values(batch, sorted(here), path=path)
        absent = {ours: [split if ours == "split" else None] * batch.num_rows for ours, _ in wanted}
        yield from map(list, zip(*(read.get(name, absent[ours]) for ours, name in wanted), strict=True))


ENDINGS = {
    ".csv": _open_csv,
    ".tsv": lambda path: _open_csv(path, delimiter="\t"),
    ".jsonl": _open_json_lines,
    ".ndjson": _open_json_lines,
    ".parquet": _open_parquet,
}
