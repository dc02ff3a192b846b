"""Tables that hold images as columns: an image in one is named `a.parquet/image#17`, the cell in row 17, from 0.

What follows a slash, as in `a.parquet/image#17/dog.jpg`, is the image's own name, for people to read; the third image
of a list of them is `image#17.2`.

To add a kind of such files: one file with a class as that of parquets.py, one row in KINDS, and a test.
"""

import contextlib
import errno
import functools
import importlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from clipret.datasets.parsing import flaw
from clipret.errors import DatasetError

# Ending -> "module:class" in this room, imported when it is used.
KINDS = {".parquet": "parquets:ParquetRows", ".arrow": "arrows:ArrowRows"}
_MEMBER = re.compile(r"(?P<column>.+)#(?P<row>\d{1,18})(?:\.(?P<item>\d{1,9}))?(?:/(?P<name>[^/]*))?", re.DOTALL)
# Names that are shown behind the row: of one part, and not to be taken for another address.
_NAME = re.compile(r"[^/\\#:]{1,200}")
# Of each thread: a cell is mostly followed by the next one of the same file.
_OPEN_FILES = 4
_PYARROW = "needs the package `pyarrow`; run: pip install 'clipret[parquet]'"
# Ending -> what it is called, and what to do with one that is damaged.
_KINDS_IN_WORDS = {
    ".parquet": ("Parquet", "make it again, or download it again"),
    ".arrow": ("Arrow", "save it again, or copy it again"),
}
_OPEN = threading.local()


class RowFile(Protocol):
    """An open file of rows and columns.

    path      the file
    schema    pyarrow's, of its columns
    num_rows  of the whole file
    copies    whether reading a column reads its bytes, and not just where they are
    """

    path: Path
    schema: object
    num_rows: int
    copies: bool

    def batches(self, columns: list[str], *, names_of: str | None = None) -> Iterator:
        """pyarrow record batches of these columns, all rows in order, a few megabytes at a time.

        names_of  an image column of which at least the field `path` is wanted as well, where it has one
        """

    def cell(self, column: str, row: int):
        """A pyarrow scalar. Reads no more of the file than the part that the row is in; the next rows come fast."""


def open_rows(path: Path) -> RowFile:
    """Open a file of KINDS, or take the one that this thread has open. Reads no rows.

    Raises DatasetError when it cannot be read, is damaged, or pyarrow is not installed.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from None
    key = (os.getpid(), path, state.st_mtime_ns, state.st_size)
    files = _OPEN.__dict__.setdefault("files", {})
    if key not in files:
        for old in list(files)[: len(files) - _OPEN_FILES + 1]:
            del files[old]
        require_pyarrow(path)
        files[key] = _kind(path.suffix.lower())(path)
    return files[key]


def require_pyarrow(path: Path) -> None:
    """Raise DatasetError, with the command that installs it, when pyarrow is not there."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        what = "Parquet" if path.suffix.lower() == ".parquet" else "Arrow files"
        raise DatasetError(f"{path}: reading {what} {_PYARROW}") from None


def member_name(column: str, row: int, *, item: int | None = None, name: str | None = None) -> str:
    """What the image in a cell is called within its file; the own name is left out where it is no plain file name."""
    base = f"{column}#{row}" if item is None else f"{column}#{row}.{item}"
    name = (name or "").replace("\\", "/").rpartition("/")[2]
    if not _NAME.fullmatch(name) or name in (".", "..") or flaw(name, one_line=True):
        return base
    return f"{base}/{name}"


def member_index(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Member name -> (row, size of the image in bytes) of the images in a file of rows, looked up when asked for.

    Raises DatasetError as open_rows does; a look-up that meets damage raises it too.
    """
    return _Members(open_rows(path))


def read_member(path: Path, name: str, *, start: int = 0, size: int | None = None) -> bytes:
    """Bytes of one image: `size` of them from `start`, by default all.

    Raises OSError when the file or the image is not there, or cannot be read.
    """
    try:
        content = _Members(open_rows(path)).content(name)
    except DatasetError as error:
        raise OSError(str(error)) from None
    if content is None:
        raise FileNotFoundError(errno.ENOENT, "no such image", f"{path}/{name}")
    return content[start:] if size is None else content[start : start + size]


def own_name(member: str) -> str:
    """The image's own name in a member's; empty where it has none."""
    match = _MEMBER.fullmatch(member)
    return (match["name"] or "") if match else ""


@contextlib.contextmanager
def row_errors(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises at a file that is of another kind, or damaged, into a DatasetError."""
    import pyarrow

    try:
        yield
    # Bytes that are no UTF-8 are a ValueError, found when text is made of them.
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        kind, mend = _KINDS_IN_WORDS.get(path.suffix.lower(), _KINDS_IN_WORDS[".parquet"])
        raise DatasetError(f"{path} cannot be read as {kind}: {reason}; {mend}.") from None


def column_values(batch, names: list[str], *, path: Path) -> dict[str, list]:
    """Name -> the cells of a column as Python has them. Raises DatasetError on text that is none."""
    with row_errors(path):
        return {name: batch.column(batch.schema.names.index(name)).to_pylist() for name in names}


def image_bytes(cell) -> bytes | None:
    """The file in a cell: bytes, or a structure with a field `bytes`; None where there is none.

    cell  as pyarrow's as_py gives it
    """
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    return content if isinstance(content, bytes) else None


class _Members(Mapping):
    """Members of one file by their names, as the index of a container has them."""

    def __init__(self, file: RowFile):
        self._file = file

    def __contains__(self, name) -> bool:
        return self._place(name) is not None

    def __getitem__(self, name: str) -> tuple[int, int]:
        content = self.content(name)
        if content is None:
            raise KeyError(name)
        return self._place(name)[1], len(content)

    def __iter__(self) -> Iterator[str]:
        columns = [field.name for field in self._file.schema]
        return (member_name(column, row) for column in columns for row in range(self._file.num_rows))

    def __len__(self) -> int:
        return self._file.num_rows * len(self._file.schema)

    def content(self, name: str) -> bytes | None:
        """The bytes of a member; None where there are none."""
        place = self._place(name)
        if place is None:
            return None
        column, row, item = place
        scalar = self._file.cell(column, row)
        with row_errors(self._file.path):
            cell = scalar.as_py()
        if item is not None:
            cell = cell[item] if isinstance(cell, list) and item < len(cell) else None
        return image_bytes(cell)

    def _place(self, name: str) -> tuple[str, int, int | None] | None:
        match = _MEMBER.fullmatch(name)
        if not match or int(match["row"]) >= self._file.num_rows or match["column"] not in self._file.schema.names:
            return None
        return match["column"], int(match["row"]), None if match["item"] is None else int(match["item"])


@functools.cache
def _kind(ending: str) -> type:
    module, _, name = KINDS[ending].partition(":")
    return getattr(importlib.import_module(f"clipret.datasets.{module}"), name)
