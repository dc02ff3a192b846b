"""The processes that torchrun starts: which rows each owns, and waiting for each other.

Each process writes a file of its own, so that nothing but files has to cross from one machine to another; the store
that torchrun keeps is only asked whether all are done.
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
from clipret.progress import Progress, ProgressCallback, silent

_POLL_SECONDS = 0.1
# The store takes values of some megabytes.
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Rank:
    """One of the processes of an extraction.

    index, count              this one's number, from 0, and how many there are
    local_index, local_count  the same among those on this machine
    """

    index: int = 0
    count: int = 1
    local_index: int = 0
    local_count: int = 1

    def device(self, kind: str) -> str:
        """The device of this process: cpu, or a GPU of its own, made the current one. Raises UsageError for too few."""
        if kind != "cuda" or self.count == 1:
            return kind
        if self.local_index >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun starts {self.local_count} processes on this machine, and torch sees "
                f"{torch.cuda.device_count()} GPUs; give each its own: --nproc-per-node {torch.cuda.device_count()}"
            )
        device = f"cuda:{self.local_index}"
        # Whatever does not say which GPU it means is to mean this one.
        torch.cuda.set_device(device)
        return device

    def command(self, config: ExtractConfig) -> str:
        """The command line that goes on with this extraction, by as many processes."""
        command = to_command("extract", config)
        if self.count == 1:
            return command
        nodes = self.count // max(1, self.local_count)
        start = f"--nnodes {nodes} " if nodes > 1 else ""
        return f"torchrun {start}--nproc-per-node {self.local_count} -m {command}"


def current_rank() -> Rank:
    """This process among those that torchrun started; the only one without torchrun."""
    if not distributed.is_torchelastic_launched():
        return Rank()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Rank(*(int(os.environ[name]) for name in names))


class Together:
    """Waiting for the other processes, and telling them something, by way of torchrun's store. Made by `joined`."""

    def __init__(self, rank: Rank, store: distributed.Store | None, *, on_progress: ProgressCallback = silent):
        self._rank, self._store, self._rounds = rank, store, 0
        self._on_progress = on_progress

    def meet(self) -> None:
        """Return once every process of this start has called this; from then on they hear only each other.

        torchrun's store outlives a restart, and with it what killed processes have said. So each says a word that no
        other ever says, the first answers every word with its own, and what follows is said under that one. Its torch
        has no number for a start that is the same on all machines: TORCHELASTIC_RESTART_COUNT goes up only where a
        process died.
        """
        if self._rank.count == 1:
            return
        own = uuid.uuid4().hex
        common = self._welcome(own) if self._rank.index == 0 else self._introduce(own)
        self._store = distributed.PrefixStore(common, self._store)

    def _welcome(self, own: str) -> str:
        """Answer until every other process has heard it; a word from an earlier start may be found before its own."""
        absent = set(range(1, self._rank.count))
        while absent:
            for index in sorted(absent):
                if self._found(f"heard {index}") == own:
                    absent.remove(index)
                elif word := self._found(f"word {index}"):
                    self._ask("set", f"answer to {word}", own)
            if absent:
                self._pause(self._rank.count - len(absent))
        return own

    def _introduce(self, own: str) -> str:
        self._ask("set", f"word {self._rank.index}", own)
        while not (common := self._found(f"answer to {own}")):
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
        """Run the body in the first process of every machine, then in the others, which find what that has fetched."""
        if self._rank.local_index > 0:
            self.wait()
        yield
        if self._rank.local_index == 0:
            self.wait()

    def share(self, make: Callable[[], np.ndarray], *, count: int) -> np.ndarray:
        """(count,) int64: in every process what `make` returns in the first, which for most rows is their number."""
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
        while self._found("pieces") is None:
            self._pause(1)
        pieces = [self._ask("get", f"piece {number}") for number in range(int(self._ask("get", "pieces")))]
        rows, values = np.frombuffer(b"".join(pieces), dtype="<i8").reshape(2, -1)
        own[rows] = values
        return own

    def leave(self) -> None:
        """Say that nothing more is asked; the first process, which may keep the store, goes last."""
        if self._rank.count > 1:
            self._arrive("left", until=self._rank.count if self._rank.index == 0 else 0)

    def _arrive(self, name: str, *, until: int) -> None:
        there = self._ask("add", name, 1)
        while there < until:
            self._pause(there)
            there = self._ask("add", name, 0)

    def _pause(self, there: int) -> None:
        # Polled, not waited for inside torch, where no signal would be heard. A report is when one is heeded.
        time.sleep(_POLL_SECONDS)
        self._on_progress(Progress("processes", there, self._rank.count))

    def _found(self, key: str) -> str | None:
        """What is said there, without waiting for it."""
        return self._ask("get", key).decode() if self._ask("check", [key]) else None

    def _ask(self, what: str, *values):
        try:
            return getattr(self._store, what)(*values)
        except RuntimeError as error:
            raise CacheError(
                "torchrun, or the first of its processes, has ended; its own message says why. Finished rows are kept; "
                "start the same torchrun command again."
            ) from error


@contextmanager
def joined(rank: Rank, *, on_progress: ProgressCallback = silent) -> Iterator[Together]:
    """Inside, the processes of torchrun can wait for each other.

    on_progress  called while this one waits, with phase "processes": how many have come to this point
    """
    store = None
    if rank.count > 1:
        # The store alone, and no process group: its processes would have to reach each other, and nothing is computed
        # together.
        store, _, _ = next(distributed.rendezvous("env://"))
    together = Together(rank, store, on_progress=on_progress)
    together.meet()
    yield together
    together.leave()
