"""Locks on caches, checks that a cache can be written, and atomic creation of files."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from clipret.errors import CacheError, CacheLockedError, ClipretError
from clipret.machine.files import sync_folder, sync_path

try:
    import fcntl
except ImportError:
    # Windows. There filelock removes the lock file itself.
    fcntl = None

# An extraction that was just killed may hold its lock until its workers notice, within five seconds.
_LOCK_SECONDS = 6
_POLL_SECONDS = 0.05


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError while writing `path` into a CacheError for the user."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            reason = f"{path.parent} is not a folder"
        raise CacheError(
            f"cannot write {path}: {reason}. Finished rows are kept; once that is fixed, the same command continues."
        ) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock of `path` for this process and those it forks; creates the folder of `path`.

    Raises CacheLockedError when another process holds the lock.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    refusal = CacheLockedError(f"another process is writing {path}; wait for it, or give another --out.")
    with file_lock(path.with_name(path.name + ".lock"), refusal=refusal):
        yield


@contextmanager
def file_lock(path: Path, *, refusal: ClipretError, seconds: float | None = None) -> Iterator[None]:
    """Hold the lock file at `path` for this process and those it forks; the file is removed afterwards.

    seconds  how long to wait for another process to release it; None: as long as a killed process may take to end

    Raises refusal when another process still holds it, CacheError when the file cannot be created.
    """
    wait = _LOCK_SECONDS if seconds is None else seconds
    if fcntl is None:
        lock = FileLock(path)
        with explained(path):
            try:
                lock.acquire(timeout=wait)
            except Timeout:
                raise refusal from None
        release = lock.release
    else:
        with explained(path):
            descriptor = _flock(path, until=time.monotonic() + wait)
        if descriptor is None:
            raise refusal
        owner = os.getpid()

        def release() -> None:
            # Removed while it is locked: a process that opened it meanwhile then sees that its file is gone.
            if os.getpid() == owner:
                with suppress(FileNotFoundError):
                    path.unlink()
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    try:
        yield
    finally:
        release()


def _flock(path: Path, *, until: float) -> int | None:
    """A locked descriptor of the file at `path`; None when another process holds the lock until `until`."""
    while True:
        descriptor, ours = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # False if the previous holder removed the file meanwhile; `path` may be a new file by now.
            ours = os.path.samestat(os.fstat(descriptor), path.stat())
        except FileNotFoundError:
            pass
        except BlockingIOError:
            if time.monotonic() >= until:
                return None
            time.sleep(_POLL_SECONDS)
        finally:
            if not ours:
                os.close(descriptor)
        if ours:
            return descriptor


def require_writable(path: Path) -> None:
    """Create the folder of `path`; raise CacheError unless files can be created in it and `path` can be written."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            path.open("r+b").close()


def require_room(path: Path, *, needed: int) -> None:
    """Raise CacheError unless the disk of `path` has `needed` bytes free. The folder of `path` must exist."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise CacheError(
            f"{path} needs {_size(needed)}, and {_size(free)} are free in {path.parent}; make room or give another "
            f"--out."
        )


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it to `path` once it is complete and synced to disk.

    On failure the temporary file is removed, so that half a file does not fill up the disk.
    """
    unfinished = path.with_name(path.name + ".new")
    unfinished.unlink(missing_ok=True)
    try:
        yield unfinished
        sync_path(unfinished)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.replace(path)
    sync_folder(path.parent)


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= 0.1 * scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
