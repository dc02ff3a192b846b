"""Worker processes: end with their parent, and report which image they are reading."""

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

# Option of Linux's prctl.
_PR_SET_PDEATHSIG = 1
_NO_ROW = -1


def calm_worker_signals(worker: int = 0) -> None:
    """Set the signals and threads of a worker process: a worker_init_fn of DataLoader.

    Ctrl-C reaches every process of a terminal; the worker ignores it, and the parent handles it. SIGTERM ends the
    worker, even if it was forked from a process with a handler. On Linux the kernel kills the worker as soon as the
    thread that started it ends, for whatever reason. The worker computes with one thread.

    worker  its number, unused

    For forked and spawned processes. With a fork server, the parent would be the server.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        # The parent may have ended before prctl was called. The new parent need not be process 1, and in a container
        # process 1 may be the original parent.
        if parent is not None and os.getppid() != parent.pid:
            os._exit(1)


def end_processes(processes: Iterable[multiprocessing.Process]) -> None:
    """Kill child processes at once. They hold no data that would be lost.

    DataLoader's own shutdown waits seconds for every worker. Its SIGCHLD handler raises an error at any point of the
    program when a child ends, so it is disabled here.
    """
    in_main = threading.current_thread() is threading.main_thread()
    with _children_ignored() if in_main and hasattr(signal, "SIGCHLD") else contextlib.nullcontext():
        for process in processes:
            process.kill()
        for process in processes:
            process.join(timeout=1)


@contextlib.contextmanager
def _children_ignored() -> Iterator[None]:
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        # None: the handler was not set from Python, which cannot restore it.
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)


class ReadWatch:
    """The image that every process is reading, and since when, in shared memory.

    Every DataLoader worker and the main process have a slot each. Recording a row takes about a microsecond and no
    lock.
    """

    def __init__(self, workers: int):
        """workers: number of processes besides this one."""
        # Row and time.monotonic, which is shared by all processes on Linux, macOS and Windows.
        self._slots = torch.full((workers + 1, 2), _NO_ROW, dtype=torch.float64).share_memory_()
        self._view = self._slots.numpy()

    def __getstate__(self) -> dict:
        return {"_slots": self._slots}

    def __setstate__(self, state: dict) -> None:
        self._slots = state["_slots"]
        self._view = self._slots.numpy()

    @contextlib.contextmanager
    def reading(self, row: int) -> Iterator[None]:
        """Record, while the body runs, that this process is reading the row."""
        info = get_worker_info()
        slot = self._view[info.id + 1 if info else 0]
        # In this order no reader combines the new row with the old time.
        slot[1] = time.monotonic()
        slot[0] = row
        try:
            yield
        finally:
            slot[0] = _NO_ROW

    def being_read(self) -> list[int]:
        """Rows being read now, ascending."""
        return sorted({int(row) for row in self._view[:, 0].copy() if row != _NO_ROW})

    def stuck(self, seconds: float) -> list[tuple[int, float]]:
        """(row, seconds so far) for rows whose reading has taken longer than `seconds`, the longest first."""
        now, stuck = time.monotonic(), []
        for slot in self._view:
            row, since = slot[0], slot[1]
            # The row is checked again: if it changed meanwhile, the time may belong to another row.
            if row != _NO_ROW and now - since > seconds and slot[0] == row:
                stuck.append((int(row), float(now - since)))
        return sorted(stuck, key=lambda item: -item[1])
