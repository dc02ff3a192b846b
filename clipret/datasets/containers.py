"""Files that hold other files, as folders do: images in them are named `a.tar/b.jpg`.

To add a kind: one file with functions like those of tars.py, one row in CONTAINERS, and a test. Tables with images in
their rows have functions in common, row_files.py, and a table of their own.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clipret.datasets import row_files, tars, zips


@dataclass(frozen=True)
class Container:
    """A kind of file that holds others.

    index  path -> member name -> where it is, a tuple whose last number is the member's size in bytes. Called for every
           image, so it remembers the last files; the mapping must not be changed. It may look a member up only when it
           is asked for. Raises DatasetError when the file cannot be read or is damaged, or a member is unsafe or there
           twice
    read   (path, member name, start=0, size=None) -> that many bytes of the member from `start`; None: all the rest.
           Raises OSError when the file or the member is not there or cannot be read
    """

    index: Callable[[Path], Mapping[str, tuple[int, ...]]]
    read: Callable[..., bytes]


CONTAINERS = {
    ".tar": Container(index=tars.member_index, read=tars.read_member),
    ".zip": Container(index=zips.member_index, read=zips.read_member),
} | dict.fromkeys(row_files.KINDS, Container(index=row_files.member_index, read=row_files.read_member))
_INSIDE = re.compile(f"({'|'.join(map(re.escape, CONTAINERS))})/")


def split_container(name: str) -> tuple[str, str]:
    """An image file's folder and name in it: `a/b.jpg` -> a, b.jpg; `a.tar/b/c.jpg` -> a.tar, b/c.jpg."""
    if inside := _INSIDE.search(name):
        return name[: inside.end() - 1], name[inside.end() :]
    folder, _, file = name.rpartition("/")
    return folder, file


def container_of(name: str) -> Container | None:
    """The kind of container that an image file is in; None where it is a file of its own."""
    inside = _INSIDE.search(name)
    return CONTAINERS[inside[1]] if inside else None
