"""Tar files as folders: where the bytes of each member are, so that one is read without the others."""

import functools
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from clipret.datasets.members import find_member, read_index
from clipret.datasets.parsing import flaw
from clipret.errors import DatasetError

_BLOCK = tarfile.BLOCKSIZE
# What a file of the usual compressors begins with.
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
# Of a member's name and what else its headers say.
_MOST_HEADER = 1 << 20
# Besides its own errors, tarfile lets through what a damaged extended header makes of numbers and texts.
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, EOFError, RecursionError)


def member_index(path: Path) -> dict[str, tuple[int, int]]:
    """Member name -> (offset of its bytes, size) of the files in an uncompressed tar file, in the tar file's order.

    Read once a process, and again when the file's time or size has changed. The dict is shared: not to be changed.

    Raises DatasetError when the file cannot be read, is no tar file, is compressed, cut short or damaged, or has a
    member that is no plain file or folder, is there twice, or whose name leads out of it.
    """
    return read_index(path, _index)


def read_member(path: Path, name: str, *, start: int = 0, size: int | None = None) -> bytes:
    """Bytes of one member: `size` of them from `start`, by default all.

    Raises OSError when the tar file or the member is not there, or cannot be read.
    """
    offset, whole = find_member(path, name, index=member_index)
    left = max(whole - start, 0)
    with path.open("rb") as file:
        file.seek(offset + start)
        return file.read(left if size is None else min(size, left))


class _Headers:
    """A tar file as tarfile reads its headers, which may declare any size of themselves, holes in the file included."""

    def __init__(self, file: BinaryIO, path: Path):
        self._file, self._path = file, path
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int) -> bytes:
        """Raises DatasetError on what no header is."""
        if size > _MOST_HEADER:
            raise DatasetError(
                f"{self._path}: a header at byte {self._file.tell():,} says that it has {size:,} bytes, over "
                f"{_MOST_HEADER:,}; pack it again."
            )
        return self._file.read(size)


@functools.lru_cache(maxsize=256)
def _index(path: Path, time: int, size: int) -> dict[str, tuple[int, int]]:
    _require_plain(path, size)
    index, end = {}, 0
    try:
        with path.open("rb") as file, tarfile.open(fileobj=_Headers(file, path), mode="r:", encoding="utf-8") as tar:
            for member in tar:
                end = member.offset_data
                if member.isdir():
                    continue
                name = _checked_name(member, path)
                if name in index:
                    raise DatasetError(f"{path} has the member {name} twice; pack it again with each file once.")
                index[name] = (member.offset_data, member.size)
                end += -(-member.size // _BLOCK) * _BLOCK
    except _DAMAGE:
        if end == 0:
            raise DatasetError(f"{path} is not a tar file; download it again, or pack it with: tar -cf.") from None
        raise DatasetError(f"{path} is cut short or damaged at byte {min(end, size):,}; download it again.") from None
    _require_end(path, end)
    return index


def _require_plain(path: Path, size: int) -> None:
    if size == 0:
        raise DatasetError(f"{path} is an empty file; expected a tar file: download it again.")
    with path.open("rb") as file:
        if file.read(6).startswith(_COMPRESSED):
            raise DatasetError(
                f"{path} is compressed; images are read from anywhere in a shard, which takes a plain .tar: decompress "
                f"it first."
            )


def _checked_name(member: tarfile.TarInfo, path: Path) -> str:
    """The member's name without leading `./`. Raises DatasetError when it is not to be trusted, or is no plain file."""
    if fault := flaw(member.name, one_line=True):
        raise DatasetError(f"{path}: the name of member {member.name[:60]!a} has {fault}; pack it under another name.")
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise DatasetError(
            f"{path}: the member {member.name} points outside the shard; expected names without a leading / and `..`."
        )
    if not member.isreg() or member.issparse():
        kind = "link" if member.islnk() or member.issym() else "sparse file" if member.issparse() else "device"
        raise DatasetError(
            f"{path}: the member {name} is a {kind}; expected plain files: pack it again, with the files themselves."
        )
    return str(name)


def _require_end(path: Path, end: int) -> None:
    """tarfile takes any header that it cannot read, past the first, for the end; the end is a block of zeros."""
    with path.open("rb") as file:
        file.seek(end)
        rest = file.read(2 * tarfile.RECORDSIZE)
    if len(rest) < _BLOCK or any(rest[:_BLOCK]):
        raise DatasetError(f"{path} is cut short or damaged at byte {end:,}; download it again.")
    if any(rest):
        raise DatasetError(
            f"{path} has more data after its end at byte {end:,}, as tar files joined by `cat` do; name them one by "
            f"one."
        )
