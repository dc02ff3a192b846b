"""Who may write a cache, and whether it can be written at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from clipret.cache.raw import sync_folder, sync_path
from clipret.errors import CacheError, CacheLockedError

# An extraction that was just killed may hold its lock until its workers notice, within five seconds.
_LOCK_SECONDS = 6


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into an error for the user."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            reason = f"{path.parent} is not a folder"
        raise CacheError(
            f"cannot write {path}: {reason}. Finished rows are kept; once that is mended the same command goes on."
        ) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside, this process, with those it forks, is the only writer of `path`; its folder is made.

    Raises CacheLockedError when another process is.
    """
    lock = FileLock(f"{path}.lock")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise CacheLockedError(f"another process is writing {path}; wait for it, or give another --out.") from None
    try:
        yield
    finally:
        lock.release()


def require_writable(path: Path) -> None:
    """Make the folder of `path`, and raise CacheError unless a file can be made in it and `path` can be written."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            path.open("r+b").close()


def require_room(path: Path, *, needed: int) -> None:
    """Raise CacheError unless the disk of `path`, whose folder is there, has `needed` bytes free."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise CacheError(
            f"{path} needs {_size(needed)}, and {_size(free)} are free in {path.parent}; make room or give another "
            f"--out."
        )


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield another name to make a file under; put it in place when it is whole and on the disk.

    What was made is removed when making it fails, so that a full disk is not filled by half a file.
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
