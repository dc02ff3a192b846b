"""What the workers of a download share: progress told one at a time, the wish to stop, and one folder on one disk."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from clipret.errors import DatasetError
from clipret.machine.progress import Progress, ProgressCallback

LOCK = ".clipret-download.lock"
_REPORT_SECONDS = 0.1


class StoppedError(Exception):
    """Work was given up because another worker failed, or the user wants to stop; for nobody's eyes."""


class Watch:
    """Stands between several workers and the one who waits for them."""

    def __init__(self, on_progress: ProgressCallback):
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._reported = {}
        # A lock of its own: stop may be called while, or even from where, a report is taken in.
        self._waking = threading.Lock()
        self._wakers = set()

    def report(self, phase: str, *, done: int, total: int, unit: str = "") -> None:
        """Pass progress on, a phase's steps at most ten times a second. Raises StoppedError once stop was called."""
        self.check()
        with self._lock:
            now = time.monotonic()
            if done < total and now - self._reported.get(phase, float("-inf")) < _REPORT_SECONDS:
                return
            self._reported[phase] = now
            self._on_progress(Progress(phase=phase, done=done, total=total, unit=unit))

    def check(self) -> None:
        """Raise StoppedError once stop was called."""
        if self._stopping.is_set():
            raise StoppedError

    def pause(self, seconds: float) -> None:
        """Wait. Raises StoppedError as soon as stop is called."""
        self._stopping.wait(seconds)
        self.check()

    @contextmanager
    def waking(self, wake: Callable[[], None]) -> Iterator[None]:
        """Have `wake` called by stop while the body runs: for what waits where no check is made."""
        with self._waking:
            self._wakers.add(wake)
        try:
            yield
        finally:
            with self._waking:
                self._wakers.discard(wake)

    def stop(self) -> None:
        """Make every worker give up soon."""
        self._stopping.set()
        with self._waking:
            wakers = tuple(self._wakers)
        for wake in wakers:
            wake()


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into an error for the user."""
    try:
        yield
    # The second is what filelock raises on a file system that knows no locks.
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            reason = "a part of this path is a file and not a folder"
        raise DatasetError(
            f"cannot write {path}: {reason}. Downloaded files are kept; once that is fixed, the same command continues."
        ) from error


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Run the body as the only process that downloads into `root`. Raises DatasetError when another one does."""
    lock = FileLock(root / LOCK)
    with explained(root):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise DatasetError(
                f"another process is downloading into {root}; wait for it, or name another folder with --root."
            ) from None
    try:
        yield
    finally:
        lock.release()


def require_space(root: Path, *, fetch: int = 0, unpack: int = 0) -> None:
    """Raise DatasetError unless the file system of the folder `root` has room for so many bytes."""
    with explained(root):
        free = shutil.disk_usage(root).free
    if fetch + unpack > free:
        raise DatasetError(
            f"{root} has {free / 1e9:.2f} GB free and {(fetch + unpack) / 1e9:.2f} GB are needed, {fetch / 1e9:.2f} to "
            f"fetch and {unpack / 1e9:.2f} to unpack; make room, or name another folder with --root."
        )
