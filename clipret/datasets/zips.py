"""Zip files as folders: where each member is, so that one is read without the others and nothing is unpacked."""

import functools
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from clipret.datasets.members import find_member, read_index
from clipret.datasets.parsing import counted, flaw, listed
from clipret.errors import DatasetError

_ENCRYPTED = 1
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_LOCAL = struct.Struct("<4s22xHH")
_LOCAL_MAGIC = b"PK\x03\x04"
# What macOS adds, which is nobody's data.
_MAC = "__MACOSX/"


def member_index(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Member name -> (offset of its header, method, bytes as stored, size) of the files in a zip file, in its order.

    Read once a process, and again when the file's time or size has changed. The dict is shared: not to be changed.

    Raises DatasetError when the file cannot be read, is no zip file, is cut short or damaged, or has a member that is
    encrypted, of another compression than deflate, there twice, or whose name leads out of it.
    """
    return read_index(path, _index)


def read_member(path: Path, name: str, *, start: int = 0, size: int | None = None) -> bytes:
    """Bytes of one member: `size` of them from `start`, by default all; of a stored member only these are read.

    Raises OSError when the zip file or the member is not there, or cannot be read.
    """
    header, method, stored, whole = find_member(path, name, index=member_index)
    stop = whole if size is None else min(start + size, whole)
    with path.open("rb") as file:
        file.seek(header)
        local = file.read(_LOCAL.size)
        if len(local) < _LOCAL.size or not local.startswith(_LOCAL_MAGIC):
            raise OSError(f"{path.name} is damaged at the member's header")
        _, name_length, extra_length = _LOCAL.unpack(local)
        offset = header + _LOCAL.size + name_length + extra_length
        if method == zipfile.ZIP_STORED:
            file.seek(offset + start)
            return file.read(max(stop - start, 0))
        file.seek(offset)
        return _inflated(file.read(stored), whole)[start : max(stop, start)]


def _inflated(content: bytes, size: int) -> bytes:
    """What was deflated. Never more than the size that the zip file says. Raises OSError on damage."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(content, size + 1)
    except zlib.error:
        raise OSError("the member's compressed data are damaged") from None
    if len(inflated) != size:
        raise OSError("the member's compressed data are damaged: not of the size that the zip file says")
    return inflated


@functools.lru_cache(maxsize=256)
def _index(path: Path, time: int, size: int) -> dict[str, tuple[int, int, int, int]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    # Besides its own error, zipfile lets through what a damaged directory makes of numbers and texts.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError, OverflowError):
        what = "is an empty file" if not size else "is no zip file, or is cut short or damaged"
        raise DatasetError(f"{path} {what}; download it again.") from None
    members = [member for member in members if not member.filename.startswith(_MAC)]
    _require_readable(path, members)
    index = {}
    for member in members:
        name = _checked_name(member.filename, path)
        if name in index:
            raise DatasetError(f"{path} has the member {name} twice; pack it again with each file once.")
        index[name] = (member.header_offset, member.compress_type, member.compress_size, member.file_size)
    return index


def _require_readable(path: Path, members: list[zipfile.ZipInfo]) -> None:
    encrypted = [member.filename for member in members if member.flag_bits & _ENCRYPTED]
    if encrypted:
        raise DatasetError(
            f"{path}: a password is needed for {len(encrypted):,} of {counted(len(members), 'member')}: "
            f"{listed(encrypted)}; unpack it with the password, and give the folder."
        )
    others = {member.filename: member.compress_type for member in members if member.compress_type not in _METHODS}
    if others:
        methods = sorted({zipfile.compressor_names.get(method, str(method)) for method in others.values()})
        raise DatasetError(
            f"{path}: {counted(len(others), 'member')} of {len(members):,} are compressed by {listed(methods)}: "
            f"{listed(others)}; expected stored or deflated ones: pack it again with: zip -0 -r, or unpack it."
        )


def _checked_name(name: str, path: Path) -> str:
    """The member's name without leading `./`. Raises DatasetError when it is not to be trusted."""
    if fault := flaw(name, one_line=True):
        raise DatasetError(f"{path}: the name of member {name[:60]!a} has {fault}; pack it under another name.")
    plain = PurePosixPath(name.replace("\\", "/"))
    if plain.is_absolute() or ".." in plain.parts or not plain.parts:
        raise DatasetError(
            f"{path}: the member {name} points outside the zip file; expected names without a leading / and `..`."
        )
    return str(plain)
