"""The processes of torchrun: which rows each one owns, and waiting for each other.

Every process writes its own file, so that only files are exchanged between machines; torchrun's store is used only to
wait until all are done.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed

from clipret.config import ExtractConfig, to_command
from clipret.errors import CacheError, UsageError
from clipret.machine.progress import Progress, ProgressCallback, silent

_POLL_SECONDS = 0.1
# The store takes values of some megabytes.
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Rank:
    """One of the processes of an extraction.

    index, count              number of this process, from 0, and number of processes
    local_index, local_count  the same among the processes of this machine
    """

    index: int = 0
    count: int = 1
    local_index: int = 0
    local_count: int = 1

    def device(self, kind: str) -> str:
        """The device of this process: cpu, or its own GPU, which becomes torch's current one.

        Raises UsageError when there are too few GPUs.
        """
        if kind != "cuda" or self.count == 1:
            return kind
        if self.local_index >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun started {self.local_count} processes on this machine, but torch sees "
                f"{torch.cuda.device_count()} GPUs; use one process a GPU: --nproc-per-node {torch.cuda.device_count()}"
            )
        device = f"cuda:{self.local_index}"
        # Code that names no GPU uses this one.
        torch.cuda.set_device(device)
        return device

    def command(self, config: ExtractConfig) -> str:
        """The command line that continues this extraction with as many processes."""
        command = to_command("extract", config)
        if self.count == 1:
            return command
        nodes = self.count // max(1, self.local_count)
        start = f"--nnodes {nodes} " if nodes > 1 else ""
        return f"torchrun {start}--nproc-per-node {self.local_count} -m {command}"


def current_rank() -> Rank:
    """This process among those of torchrun; without torchrun, the only one."""
    if not distributed.is_torchelastic_launched():
        return Rank()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Rank(*(int(os.environ[name]) for name in names))


class Together:
    """Waiting for the other processes and sending them data through torchrun's store. Created by `joined`."""

    def __init__(self, rank: Rank, store: distributed.Store | None, *, on_progress: ProgressCallback = silent):
        self._rank, self._store, self._rounds = rank, store, 0
        self._on_progress = on_progress

    def meet(self) -> None:
        """Return once every process of this start has called this; from then on they read only each other's keys.

        torchrun's store survives a restart, with the keys of killed processes. So every process writes a random word,
        the first process answers every word with its own, and later keys have that word as prefix. torch has no number
        of a start that is the same on all machines: TORCHELASTIC_RESTART_COUNT grows only where a process died.
        """
        if self._rank.count == 1:
            return
        own = uuid.uuid4().hex
        common = self._welcome(own) if self._rank.index == 0 else self._introduce(own)
        self._store = distributed.PrefixStore(common, self._store)

    def _welcome(self, own: str) -> str:
        """Answer until every other process has confirmed; a word of an earlier start may come before its own."""
        absent = set(range(1, self._rank.count))
        while absent:
            for index in sorted(absent):
                if self._ask_if_there(f"heard {index}") == own:
                    absent.remove(index)
                elif word := self._ask_if_there(f"word {index}"):
                    self._ask("set", f"answer to {word}", own)
            if absent:
                self._pause(self._rank.count - len(absent))
        return own

    def _introduce(self, own: str) -> str:
        self._ask("set", f"word {self._rank.index}", own)
        while not (common := self._ask_if_there(f"answer to {own}")):
            self._pause(1)
        self._ask("set", f"heard {self._rank.index}", common)
        return common

    def wait(self) -> None:
        """Return once every process has called this. Raises CacheError when torchrun's store is gone."""
        if self._rank.count > 1:
            self._rounds += 1
            self._arrive(f"round {self._rounds}", until=self._rank.count)

    @contextmanager
    def first_on_a_machine(self) -> Iterator[None]:
        """Run the body in the first process of a machine, then in the others, which use the files it downloaded."""
        if self._rank.local_index > 0:
            self.wait()
        yield
        if self._rank.local_index == 0:
            self.wait()

    def share(self, make: Callable[[], np.ndarray], *, count: int) -> np.ndarray:
        """(count,) int64: in every process the result of `make` in the first one; most rows are their own number."""
        if self._rank.count == 1:
            return make()
        own = np.arange(count)
        if self._rank.index == 0:
            values = make()
            rows = np.flatnonzero(values != own)
            pairs = np.stack([rows, values[rows]]).astype("<i8").tobytes()
            pieces = [pairs[start : start + _PIECE_BYTES] for start in range(0, len(pairs), _PIECE_BYTES)]
            for number, piece in enumerate(pieces):
                self._ask("set", f"piece {number}", piece)
            self._ask("set", "pieces", str(len(pieces)))
            return values
        while self._ask_if_there("pieces") is None:
            self._pause(1)
        pieces = [self._ask("get", f"piece {number}") for number in range(int(self._ask("get", "pieces")))]
        rows, values = np.frombuffer(b"".join(pieces), dtype="<i8").reshape(2, -1)
        own[rows] = values
        return own

    def leave(self) -> None:
        """Report that this process is done; the first process, which may host the store, leaves last."""
        if self._rank.count > 1:
            self._arrive("left", until=self._rank.count if self._rank.index == 0 else 0)

    def _arrive(self, name: str, *, until: int) -> None:
        there = self._ask("add", name, 1)
        while there < until:
            self._pause(there)
            there = self._ask("add", name, 0)

    def _pause(self, there: int) -> None:
        # Polling, because waiting inside torch would block signals, which are handled at a progress report.
        time.sleep(_POLL_SECONDS)
        self._on_progress(Progress("processes", there, self._rank.count))

    def _ask_if_there(self, key: str) -> str | None:
        """The value of a key, or None; does not wait for it."""
        return self._ask("get", key).decode() if self._ask("check", [key]) else None

    def _ask(self, what: str, *values):
        try:
            return getattr(self._store, what)(*values)
        except RuntimeError as error:
            raise CacheError(
                "torchrun or its first process has ended; its own message says why. Finished rows are kept; run the "
                "same torchrun command again."
            ) from error


@contextmanager
def joined(rank: Rank, *, on_progress: ProgressCallback = silent) -> Iterator[Together]:
    """Inside, the processes of torchrun can wait for each other.

    on_progress  called while this process waits, with phase "processes": how many have arrived
    """
    store = None
    if rank.count > 1:
        # Only the store, no process group, which would need connections between all processes.
        store, _, _ = next(distributed.rendezvous("env://"))
    together = Together(rank, store, on_progress=on_progress)
    together.meet()
    yield together
    together.leave()
