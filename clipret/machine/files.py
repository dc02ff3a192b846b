"""Reading files that a user names: regular files only, up to a size limit. Locks, syncing, and atomic replacement."""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

# Suffix of a file that is still being written.
UNFINISHED = ".part"
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_CHUNK = 1 << 24


def require_file(path: Path | str) -> int:
    """The size in bytes of a regular file, links followed.

    Raises OSError with the reason in strerror: FileNotFoundError, or an error that names the kind for a folder, pipe,
    socket or device, as opening these may block or have side effects.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
    return status.st_size


def read_file(path: Path | str, *, most: int) -> bytes:
    """The content of a regular file. Raises OSError as require_file does, and for a file of more than `most` bytes."""
    if require_file(path) > most:
        raise _too_large(path, most=most)
    parts, size = [], 0
    # Some files, as in /proc, report a size of 0, so the limit is checked while reading.
    with Path(path).open("rb", buffering=0) as file:
        # Reading some files of /proc blocks while they are empty. On Windows this call is for pipes only.
        if sys.platform != "win32":
            os.set_blocking(file.fileno(), False)
        while part := file.read(min(_CHUNK, most + 1 - size)):
            parts.append(part)
            size += len(part)
            if size > most:
                raise _too_large(path, most=most)
    return b"".join(parts)


@contextmanager
def locked(path: Path, *, seconds: float = 0) -> Iterator[None]:
    """Hold the lock file, which is removed at the end.

    seconds  how long to wait for another process

    Raises filelock.Timeout, and OSError when the file cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        require_file(path)
    while True:
        lock = FileLock(path)
        # While the file is open its inode is not reused, so the check that this is the locked file is reliable.
        with path.open("ab") as opened:
            lock.acquire(timeout=seconds)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(opened.fileno()), path.stat()):
                    break
        # The previous holder removed the file, so this lock is on a deleted file.
        lock.release()
    try:
        yield
    finally:
        # Removed before the release; afterwards the file may belong to another process.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it replaces `path` atomically if the body succeeds."""
    unfinished = path.with_name(path.name + UNFINISHED)
    # Whatever a killed process left there is removed, not written to.
    unfinished.unlink(missing_ok=True)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def sync_path(path: Path) -> None:
    """Sync the file at `path` to disk."""
    with path.open("r+b") as file:
        os.fsync(file)


def sync_folder(path: Path) -> None:
    """Sync the entries of a folder to disk; a no-op on Windows and network disks that do not support it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Sync a folder to disk, with all files and folders in it."""
    for folder, _, names in os.walk(path):
        for name in names:
            sync_path(Path(folder, name))
        sync_folder(Path(folder))


def _too_large(path: Path | str, *, most: int) -> OSError:
    return OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
