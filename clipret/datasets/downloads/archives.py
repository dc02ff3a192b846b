"""Unpacking zip and tar files: chosen plain files only, each of which gets its name when it is whole."""

import contextlib
import fnmatch
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from clipret.datasets.downloads.watch import Watch, explained, require_space
from clipret.errors import DatasetError

_BLOCK = 1 << 20
# What the libraries raise at a damaged archive, or at one packed in a way that they do not know.
_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, UnicodeDecodeError, struct.error),
)


class _DamagedError(Exception):
    """A file of an archive cannot be read; the text says why."""


@dataclass(frozen=True)
class Selection:
    """Which files of an archive are wanted, and where they go.

    pattern  of their names in the archive, with *, ? and [...]; of their last parts when there is `into`
    into     folder below the root that they go to, under the last part of their names; None: they keep their folders
    """

    pattern: str
    into: str | None = None

    def target(self, name: str) -> str | None:
        """Where a file of the archive goes, relative to the root; None when it is not wanted."""
        shown = name if self.into is None else PurePosixPath(name).name
        if not fnmatch.fnmatchcase(shown, self.pattern):
            return None
        return shown if self.into is None else str(PurePosixPath(self.into) / shown)


@dataclass(frozen=True)
class _Entry:
    """A file in an archive. `kind` is "file", "folder" or "other"; `member` is the library's own record of it."""

    name: str
    size: int
    crc: int | None
    kind: str
    member: zipfile.ZipInfo | tarfile.TarInfo


def unpack(path: Path, root: Path, *, selection: Selection, watch: Watch) -> tuple[dict[str, int], int]:
    """Unpack the selected files of a .zip or .tar (also .tar.gz) file below the folder `root`.

    A file that is there already is left alone when it has the right size and, of a zip, the right CRC-32. Every other
    gets its name when it is whole.

    Returns the files by their paths below root, with their bytes, and how many were written now. Raises DatasetError,
    before anything is written, when any entry, wanted or not, would leave the root or is a link or a device, or when
    there is too little room; and when the archive is damaged or the disk refuses.
    """
    with _opened(path) as archive:
        wanted = _selected(path, archive, selection=selection)
        lacking = sum(entry.size for target, entry in wanted.items() if _size(root / target) != entry.size)
        require_space(root, unpack=lacking)
        written = 0
        for done, (target, entry) in enumerate(wanted.items()):
            watch.report(f"unpack {path.name}", done=done, total=len(wanted))
            if not _is_whole(root / target, entry):
                _write(archive.read(entry), root / target, watch=watch)
                written += 1
        watch.report(f"unpack {path.name}", done=len(wanted), total=len(wanted))
    return {target: entry.size for target, entry in wanted.items()}, written


def lacking_bytes(path: Path, root: Path, *, selection: Selection) -> int:
    """Bytes of the selected files that are not below root with their size. Raises DatasetError as unpack does."""
    with _opened(path) as archive:
        wanted = _selected(path, archive, selection=selection)
    return sum(entry.size for target, entry in wanted.items() if _size(root / target) != entry.size)


class _Zip:
    """A zip file, with the methods that _Tar has."""

    def __init__(self, path: Path):
        self._file = zipfile.ZipFile(path)

    def entries(self) -> Iterator[_Entry]:
        """Every entry, in the archive's order."""
        for info in self._file.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)
            plain = mode in (0, stat.S_IFREG, stat.S_IFDIR) and not info.flag_bits & 1
            kind = "other" if not plain else "folder" if info.is_dir() or mode == stat.S_IFDIR else "file"
            # zipfile itself cuts a name at its first zero byte and, on Windows, turns backslashes round.
            yield _Entry(name=info.orig_filename, size=info.file_size, crc=info.CRC, kind=kind, member=info)

    def read(self, entry: _Entry) -> BinaryIO:
        """The content of a file, as a stream."""
        return self._file.open(entry.member)

    def close(self) -> None:
        """Close the archive's file."""
        self._file.close()


class _Tar:
    """A tar file, compressed or not, with the methods that _Zip has."""

    def __init__(self, path: Path):
        self._file = tarfile.open(path, "r:*")  # noqa: SIM115  closed by _opened

    def entries(self) -> Iterator[_Entry]:
        """Every entry, in the archive's order, once all of the archive has been read."""
        members = self._file.getmembers()
        # The checksum of a compressed tar is at its end, which tarfile has no reason to read.
        while self._file.fileobj.read(_BLOCK):
            pass
        for info in members:
            kind = "file" if info.isfile() else "folder" if info.isdir() else "other"
            yield _Entry(name=info.name, size=info.size, crc=None, kind=kind, member=info)

    def read(self, entry: _Entry) -> BinaryIO:
        """The content of a file, as a stream."""
        return self._file.extractfile(entry.member)

    def close(self) -> None:
        """Close the archive's file."""
        self._file.close()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Zip | _Tar]:
    with explained(path):
        try:
            with contextlib.closing((_Zip if path.suffix == ".zip" else _Tar)(path)) as archive:
                yield archive
        except (*_DAMAGE, _DamagedError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DatasetError(
                f"{path} is damaged: {reason}. What was unpacked from it is whole; delete the archive and download it "
                f"again."
            ) from None


def _selected(path: Path, archive: _Zip | _Tar, *, selection: Selection) -> dict[str, _Entry]:
    """Where each wanted file goes -> its entry, in the archive's order. Raises DatasetError on an unsafe entry."""
    wanted = {}
    for entry in archive.entries():
        if _leaves(entry.name):
            raise _refused(path, f"its entry {entry.name!r} would leave the folder")
        if entry.kind == "other":
            raise _refused(path, f"its entry {entry.name!r} is a link, a device or encrypted, not a plain file")
        target = selection.target(entry.name) if entry.kind == "file" else None
        if target in wanted:
            raise _refused(path, f"two of its entries are {target!r}")
        if target is not None:
            wanted[target] = entry
    if not wanted:
        raise _refused(path, f"it has no {selection.pattern}")
    return wanted


def _leaves(name: str) -> bool:
    windows = PureWindowsPath(name)
    return bool(windows.drive or windows.root or ".." in windows.parts) or any(bad in name for bad in "\\\0:")


def _refused(path: Path, reason: str) -> DatasetError:
    return DatasetError(f"{path} is refused: {reason}; nothing was unpacked. Delete it and download it from elsewhere.")


def _size(path: Path) -> int:
    """Bytes of a file; -1 when there is none."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def _is_whole(path: Path, entry: _Entry) -> bool:
    if _size(path) != entry.size:
        return False
    if entry.crc is None:
        return True
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc == entry.crc


def _write(source: BinaryIO, path: Path, *, watch: Watch) -> None:
    unfinished = path.with_name(f"{path.name}.part")
    with source, explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            for block in _blocks(source, watch):
                file.write(block)
        unfinished.replace(path)


def _blocks(source: BinaryIO, watch: Watch) -> Iterator[bytes]:
    """What a file of an archive holds. Damage gets an error of its own here: some kinds pass for the disk's."""
    try:
        while block := source.read(_BLOCK):
            watch.check()
            yield block
    except _DAMAGE as error:
        raise _DamagedError(str(error)) from None
