"""Files that are appended to in blocks, so that a killed process goes on where it stopped, to the same bytes.

Beside OUT stands OUT.progress while it is written: whose embeddings these are, how many blocks are on the disk, and how
long each file was then. Going on means cutting the files to these lengths. Files are called NAME.part until all of them
are whole and on the disk.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipret.machine.files import UNFINISHED, sync_folder
from clipret.machine.records import AtLeast, Each, RecordError, read_record, record_text

FORMAT = 1
PROGRESS = ".progress"
# Windows would write lines its own way.
_BINARY = getattr(os, "O_BINARY", 0)
# Waiting for the disk takes long, and what is lost by a kill is as much.
SECONDS_BETWEEN_RECORDS = 20.0
_FORM = {
    "format": int,
    "identity": Each(str),
    "blocks": AtLeast(0),
    "sizes": Each(AtLeast(0)),
    "state": Each(int),
    "whole": bool,
}


# All that touches the disk goes through these, which tests cut off at any step.
def write(descriptor: int, data) -> None:
    """Write all of it at the file's place."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[os.write(descriptor, view) :]


def sync(descriptor: int) -> None:
    """Wait until the file is on the disk."""
    os.fsync(descriptor)


def rename(path: Path, *, to: Path) -> None:
    """Rename a file, whatever is there, and wait until the folder is on the disk."""
    path.replace(to)
    sync_folder(to.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file, so that there is the old one or the whole new one."""
    descriptor = os.open(unfinished(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
    try:
        write(descriptor, data)
        sync(descriptor)
    finally:
        os.close(descriptor)
    rename(unfinished(path), to=path)


def progress_path(out: Path) -> Path:
    """Where it is recorded how far the files of OUT are."""
    return out.with_name(out.name + PROGRESS)


def read_progress(out: Path) -> dict | None:
    """What is recorded of an embedding that was interrupted; None: nothing that can be used."""
    try:
        return read_record(progress_path(out), _FORM, version=FORMAT)
    except (OSError, RecordError):
        return None


class Outputs:
    """The files of one embedding while they are written.

    blocks  that are on the disk; it goes on after them
    state   whole numbers that a format keeps between blocks
    """

    def __init__(self, out: Path, paths: tuple[Path, ...], *, identity: Mapping[str, str], resumable: bool):
        """Open the files, cut to what was recorded where that is of the same embeddings, and else empty."""
        self._out, self._paths, self._identity, self._resumable = out, paths, dict(identity), resumable
        self.blocks, self.whole, self.state = 0, False, {}
        self._sizes = dict.fromkeys(paths, 0)
        self._kept = self._moment()
        self._descriptors: dict[Path, int] = {}
        self._recorded_at = time.monotonic()
        progress = read_progress(out)
        if progress is not None and progress["identity"] == self._identity and self._fits(progress):
            self.blocks, self.state, self.whole = progress["blocks"], progress["state"], progress["whole"]
            self._sizes = {path: progress["sizes"][path.name] for path in paths}
            self._kept = self._moment()
        if not self.whole:
            self._open()

    def _moment(self) -> dict:
        """How far it is, between two blocks."""
        sizes = {path.name: size for path, size in self._sizes.items()}
        return {"blocks": self.blocks, "sizes": sizes, "state": dict(self.state), "whole": self.whole}

    def _fits(self, progress: Mapping[str, Any]) -> bool:
        """Whether the files are as long as was recorded, or longer."""
        if set(progress["sizes"]) != {path.name for path in self._paths}:
            return False
        for path in self._paths:
            places = (unfinished(path), path) if progress["whole"] else (unfinished(path),)
            sizes = [place.stat().st_size for place in places if place.exists()]
            if not sizes or sizes[0] < progress["sizes"][path.name]:
                return False
        return self._resumable or progress["whole"]

    def _open(self) -> None:
        for path in self._paths:
            descriptor = os.open(unfinished(path), os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
            self._descriptors[path] = descriptor
            os.ftruncate(descriptor, self._sizes[path])
            os.lseek(descriptor, 0, os.SEEK_END)

    def append(self, path: Path, data) -> None:
        """Add bytes, or an array's, at the end of a file."""
        view = memoryview(data).cast("B")
        write(self._descriptors[path], view)
        self._sizes[path] += len(view)

    def patch(self, path: Path, data: bytes, *, offset: int) -> None:
        """Write over bytes that are there."""
        os.lseek(self._descriptors[path], offset, os.SEEK_SET)
        write(self._descriptors[path], data)
        os.lseek(self._descriptors[path], 0, os.SEEK_END)

    def size(self, path: Path) -> int:
        """Bytes of a file so far."""
        return self._sizes[path]

    def end_block(self) -> None:
        """Count a block as written; record it now and then."""
        self.blocks += 1
        self._kept = self._moment()
        if time.monotonic() - self._recorded_at >= SECONDS_BETWEEN_RECORDS:
            self.record()

    def record(self) -> None:
        """Record how far the files were after the last whole block, once that is on the disk."""
        if not (self._resumable and self._kept["blocks"]) and not self._kept["whole"]:
            return
        for descriptor in self._descriptors.values():
            sync(descriptor)
        progress = {"format": FORMAT, "identity": self._identity, **self._kept}
        write_whole(progress_path(self._out), record_text(progress).encode())
        self._recorded_at = time.monotonic()

    def finish(self) -> dict[str, int]:
        """Give the whole files their names; returns name -> bytes."""
        if not self.whole:
            self.whole = True
            self._kept = self._moment()
            self.record()
        self.close()
        for path in self._paths:
            # Some may have theirs already.
            if unfinished(path).exists():
                rename(unfinished(path), to=path)
        return {path.name: size for path, size in self._sizes.items()}

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def unfinished(path: Path) -> Path:
    """Where a file is while it is written."""
    return path.with_name(path.name + UNFINISHED)
