"""What containers of files have in common: an index that is read once a process, and members found in it."""

import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from clipret.errors import DatasetError

Entry = TypeVar("Entry")


def read_index(path: Path, read: Callable[[Path, int, int], Mapping[str, Entry]]) -> Mapping[str, Entry]:
    """The index of a container, by a function of its path, time and size that keeps what it returned.

    Raises DatasetError when the file cannot be read, and what `read` raises.
    """
    try:
        state = path.stat()
        return read(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from None


def find_member(path: Path, name: str, *, index: Callable[[Path], Mapping[str, Entry]]) -> Entry:
    """The entry of a member in the index of its container. Raises OSError when there is none, or no such container."""
    try:
        members = index(path)
    except DatasetError as error:
        raise OSError(str(error)) from None
    if name not in members:
        raise FileNotFoundError(errno.ENOENT, "no such member", f"{path}/{name}")
    return members[name]
