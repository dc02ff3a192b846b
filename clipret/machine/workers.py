"""What processes that work for another one need: to end with it and not before, and to say what they are at."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator

import torch
from torch.utils.data import get_worker_info

# Of Linux's prctl.
_PR_SET_PDEATHSIG = 1
_NO_ROW = -1


def calm_worker_signals(worker: int = 0) -> None:
    """Make this process a quiet worker of the one that started it: a worker_init_fn of DataLoader.

    Ctrl-C reaches every process of a terminal, but what it means is for the parent to decide: it is ignored here.
    SIGTERM, which a forked process would take as its parent does, ends it. On Linux the system kills it as soon as the
    thread that started it has ended, however that came. It computes with one thread, as there are others beside it.

    worker  its number, which decides nothing

    For processes that are forked or spawned; the parent of those of a fork server is not who asked for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        # Before the system was asked, the parent may have ended unnoticed. It need not be 1 that took its place, and
        # in a container 1 may well be the parent.
        if parent is not None and os.getppid() != parent.pid:
            os._exit(1)


def end_processes(processes: Iterable[multiprocessing.Process]) -> None:
    """End child processes at once, whatever they are doing: they hold nothing that would be lost.

    DataLoader takes a child's end for an accident, which its handler raises anywhere, so it must not hear of these; and
    left to itself it would wait seconds for each.
    """
    in_main = threading.current_thread() is threading.main_thread()
    with _deaf_to_children() if in_main and hasattr(signal, "SIGCHLD") else contextlib.nullcontext():
        for process in processes:
            process.kill()
        for process in processes:
            process.join(timeout=1)


@contextlib.contextmanager
def _deaf_to_children() -> Iterator[None]:
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        # None stands for a handler that Python cannot put back.
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)


class ReadWatch:
    """Which image each process is reading, and since when, in memory that all of them share.

    Each of DataLoader's workers has a slot of its own, and so has the process that has none. To note a row costs about
    a microsecond and waits for nobody.
    """

    def __init__(self, workers: int):
        """workers: processes beside this one."""
        # Row, and time.monotonic, which on Linux, macOS and Windows is the same in all processes.
        self._slots = torch.full((workers + 1, 2), _NO_ROW, dtype=torch.float64).share_memory_()
        self._view = self._slots.numpy()

    def __getstate__(self) -> dict:
        return {"_slots": self._slots}

    def __setstate__(self, state: dict) -> None:
        self._slots = state["_slots"]
        self._view = self._slots.numpy()

    @contextlib.contextmanager
    def reading(self, row: int) -> Iterator[None]:
        """Note while the body runs that this process is reading the row."""
        info = get_worker_info()
        slot = self._view[info.id + 1 if info else 0]
        # In this order no reader takes the new row's name for the old one's time.
        slot[1] = time.monotonic()
        slot[0] = row
        try:
            yield
        finally:
            slot[0] = _NO_ROW

    def being_read(self) -> list[int]:
        """Rows that are being read now, ascending."""
        return sorted({int(row) for row in self._view[:, 0].copy() if row != _NO_ROW})

    def stuck(self, seconds: float) -> list[tuple[int, float]]:
        """(row, seconds so far) of the rows that have been read for longer than that, the longest first."""
        now, found = time.monotonic(), []
        for slot in self._view:
            row, since = slot[0], slot[1]
            # The row once more: with another one the time would not be its own.
            if row != _NO_ROW and now - since > seconds and slot[0] == row:
                found.append((int(row), float(now - since)))
        return sorted(found, key=lambda item: -item[1])
