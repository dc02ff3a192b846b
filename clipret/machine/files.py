"""Files that a user names, read safely: regular files only, and no more bytes than their kind has. Locks."""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

# What the name of a file ends with until it is whole.
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

    Raises OSError, whose strerror says in words what is wrong, where there is none: FileNotFoundError, or, of a folder,
    pipe, socket or device, which opening could hang on or change, one that says what it is.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
    return status.st_size


def read_file(path: Path | str, *, most: int) -> bytes:
    """The content of a regular file of at most so many bytes. Raises OSError as require_file does, also where it is
    larger.
    """
    if require_file(path) > most:
        raise _too_large(path, most=most)
    parts, size = [], 0
    # The system tells no size of some files, such as those of /proc: what counts is what is read.
    with Path(path).open("rb", buffering=0) as file:
        # Some files of /proc have their readers wait, with nothing to read. On Windows only pipes can be told not to.
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
    """Inside, this process alone holds the lock of that file, which is removed in the end.

    seconds  to wait for another process

    Raises filelock.Timeout, and OSError when the file cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        require_file(path)
    while True:
        lock = FileLock(path)
        # Open, its number on the disk is not given to another file: so it is seen whether that is the one locked.
        with path.open("ab") as opened:
            lock.acquire(timeout=seconds)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(opened.fileno()), path.stat()):
                    break
        # Whoever had it has removed it meanwhile, and this would be a lock that nobody sees.
        lock.release()
    try:
        yield
    finally:
        # Before the release: after it, the file may be another's.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path to write a file to, which takes the place of `path` when all went well: nobody sees half of it."""
    unfinished = path.with_name(path.name + UNFINISHED)
    # What a kill left there, whatever it is, is not written into.
    unfinished.unlink(missing_ok=True)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _too_large(path: Path | str, *, most: int) -> OSError:
    return OSError(errno.EFBIG, f"it has more than the {most:,} bytes that it may have", str(path))
