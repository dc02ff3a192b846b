"""The first block of a cache or shard: where everything in the file lies, and checksums of everything that is constant.

HDF5 skips the block (its user block). The checksums are compared by plain reads before HDF5 opens the file, so that it
never sees a damaged one. The raw arrays have no checksum here; each of their rows has its own. The block is text: a
first line, the crc32 of the rest in hexadecimal, and JSON, padded with spaces:

    format   of the file
    command  the command that makes the file again, unless it is too long
    extents  [name, first byte, byte after the last, crc32 or null], contiguous, to the end of the file

An extent has the name of its data set, or `structure`: HDF5's metadata and attributes. The texts of a column follow it
and belong to its extent.
"""

import errno
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import h5py

from clipret.cache.layout import FORMAT, RAW
from clipret.cache.raw import read_at, write_at
from clipret.errors import CacheDamagedError, CacheError, CacheFormatError

BLOCK = 4096
STRUCTURE = "structure"
_FIRST_LINE = b"clipret features\n"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_AT_ONCE = 1 << 20
# How many bytes at either end of an older cache are searched for its command.
_SEARCHED = 4 << 20
_COMMAND = re.compile(rb'"command": ("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class Extent:
    """Bytes `start` to `stop` of a file, and their crc32; None for a raw array."""

    name: str
    start: int
    stop: int
    crc: int | None


class Seal(NamedTuple):
    """arrays: the raw arrays, by name; checked: all other extents; command: the one that makes the file again, or None
    if the block had no room for it."""

    arrays: dict[str, Extent]
    checked: list[Extent]
    command: str | None


def write_seal(path: Path, *, command: str | None) -> dict[str, Extent]:
    """Write the first block of the file at `path`, once its whole structure is written. HDF5 left the block free.

    Returns the extents of the raw arrays, by name.
    """
    size = path.stat().st_size
    with path.open("r+b", buffering=0) as file:
        extents = [
            Extent(name, start, stop, None if name in RAW else _crc(file.fileno(), start, stop))
            for name, start, stop in _extents(path, size)
        ]
        entries = [[extent.name, extent.start, extent.stop, extent.crc] for extent in extents]
        text = json.dumps({"format": FORMAT, "command": command, "extents": entries})
        room = BLOCK - len(_FIRST_LINE) - 9
        if len(text) > room:
            text = json.dumps({"format": FORMAT, "command": None, "extents": entries})
        body = text.encode().ljust(room)
        write_at(file.fileno(), memoryview(_FIRST_LINE + b"%08x\n" % crc32(body) + body), offset=0)
    return {extent.name: extent for extent in extents if extent.crc is None}


def require_sealed(path: Path) -> Seal:
    """Compare the whole file at `path` with its checksums, except the raw arrays.

    Raises CacheError when there is no file, CacheFormatError when it is no cache or one of another format, and
    CacheDamagedError, which names the parts whose checksums do not match.
    """
    try:
        # Reading a pipe would block, and a device may be endless.
        if not stat.S_ISREG(path.stat().st_mode):
            raise CacheFormatError(f"{path} is not an HDF5 file; expected a cache written by clipret extract.")
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            record = _record(path, file.fileno(), size)
            faults, command = [], record["command"]
            extents = [Extent(*entry) for entry in record["extents"]]
            if extents[-1].stop != size:
                raise CacheDamagedError(
                    path, [f"it has {size:,} bytes where {extents[-1].stop:,} were written"], command=command
                )
            for extent in extents:
                if extent.crc is not None and _crc(file.fileno(), extent.start, extent.stop) != extent.crc:
                    faults.append(f"{_shown(extent)} not what was written (checksum)")
    except FileNotFoundError:
        raise CacheError(
            f"there is no cache at {path}; make it with: clipret extract --dataset NAME --out {path}"
        ) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            # Reported like any other path that is too long.
            raise
        raise CacheError(f"cannot read {path}: {error.strerror or error}.") from error
    if faults:
        raise CacheDamagedError(path, faults, command=command)
    arrays = {extent.name: extent for extent in extents if extent.crc is None}
    return Seal(arrays, [extent for extent in extents if extent.crc is not None], command)


def _record(path: Path, descriptor: int, size: int) -> dict:
    """The JSON of the first block."""
    head = bytearray(min(size, BLOCK))
    read_at(descriptor, memoryview(head), offset=0)
    if not head.startswith(_FIRST_LINE):
        _refuse(path, descriptor, size, head=head)
    sum_at = len(_FIRST_LINE)
    body = bytes(head[sum_at + 9 :])
    if len(head) < BLOCK or bytes(head[sum_at : sum_at + 9]) != b"%08x\n" % crc32(body):
        raise CacheDamagedError(path, ["its first block is not what was written (checksum)"])
    try:
        record = json.loads(body)
        version = record["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CacheDamagedError(path, ["its first block is not readable"]) from None
    if version != FORMAT:
        raise CacheFormatError(
            f"{path} is a cache of format {version}, this clipret reads format {FORMAT}; extract it again, or use the "
            f"clipret version that wrote it."
        )
    if not _is_whole(record):
        raise CacheDamagedError(path, ["its first block is not readable"])
    return record


def _is_whole(record: dict) -> bool:
    """Whether the extents are contiguous from the end of the block, and only raw arrays lack a checksum."""
    extents, command = record.get("extents"), record.get("command")
    if not isinstance(extents, list) or not extents or not isinstance(command, str | None):
        return False
    end = BLOCK
    for entry in extents:
        if not isinstance(entry, list) or [type(value) for value in entry[:3]] != [str, int, int] or len(entry) != 4:
            return False
        name, start, stop, crc = entry
        if start != end or stop < start or (crc is None) != (name in RAW) or not isinstance(crc, int | None):
            return False
        end = stop
    return True


def _refuse(path: Path, descriptor: int, size: int, *, head: bytes) -> None:
    """Raise the error for a file without a valid first line."""
    signature = bytearray(min(len(_HDF5), max(0, size - BLOCK)))
    read_at(descriptor, memoryview(signature), offset=BLOCK)
    if signature == _HDF5:
        raise CacheDamagedError(path, ["its first block is not what was written (checksum)"])
    if not head.startswith(_HDF5):
        raise CacheFormatError(f"{path} is not an HDF5 file; expected a cache written by clipret extract.")
    command = _command(descriptor, size)
    if command is None:
        raise CacheFormatError(f"{path} is an HDF5 file but not a clipret cache; expected one by clipret extract.")
    raise CacheFormatError(
        f"{path} was written by an older clipret, without the checksums that this one compares; delete it and extract "
        f"again with: {command}"
    )


def _command(descriptor: int, size: int) -> str | None:
    """The command in the attributes of an older cache, searched for without HDF5, as the file has no checksums."""
    for start in (max(0, size - _SEARCHED), 0):
        data = bytearray(min(_SEARCHED, size - start))
        read_at(descriptor, memoryview(data), offset=start)
        for match in reversed(_COMMAND.findall(data)):
            try:
                return json.loads(match)
            except ValueError:
                continue
    return None


def _extents(path: Path, size: int) -> list[tuple[str, int, int]]:
    """(name, start, stop) of everything in the file after the block, in order and without gaps."""
    pieces = []
    with h5py.File(path, "r", locking=False) as file:

        def add(name: str, item: object) -> None:
            if not isinstance(item, h5py.Dataset) or not item.id.get_storage_size():
                return
            creation = item.id.get_create_plist()
            # Only arrays in this file; the features may lie in shards.
            if creation.get_layout() == h5py.h5d.CONTIGUOUS and not creation.get_external_count():
                start = item.id.get_offset()
                texts = item.dtype.kind == "O"
                pieces.append((start, start + item.id.get_storage_size(), name, texts))

        file.visititems(add)
    pieces.sort()
    extents, end = [], BLOCK
    for number, (start, stop, name, texts) in enumerate(pieces):
        if start > end:
            extents.append((STRUCTURE, end, start))
        if texts:
            stop = pieces[number + 1][0] if number + 1 < len(pieces) else size
        extents.append((name, start, stop))
        end = stop
    return [*extents, (STRUCTURE, end, size)] if end < size else extents


def _crc(descriptor: int, start: int, stop: int) -> int:
    total, block = 0, memoryview(bytearray(min(_AT_ONCE, stop - start)))
    for offset in range(start, stop, _AT_ONCE):
        piece = block[: min(_AT_ONCE, stop - offset)]
        read_at(descriptor, piece, offset=offset)
        total = crc32(piece, total)
    return total


def _shown(extent: Extent) -> str:
    if extent.name == STRUCTURE:
        return f"its structure or attributes (bytes {extent.start} to {extent.stop - 1}) are"
    return f"/{extent.name} is"
