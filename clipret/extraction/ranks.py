"""The processes that torchrun starts: which rows each owns, and waiting for each other.

Each process writes a file of its own, so that nothing but files has to cross from one machine to another; torch's
process group is only asked whether all are done.
"""

import datetime
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from clipret.config import ExtractConfig, to_command
from clipret.errors import CacheError, UsageError

_POLL_SECONDS = 0.1
# A process may be done long before the slowest one is.
_LONGEST_WAIT = datetime.timedelta(days=30)


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
        """The device of this process: cpu, or one GPU of its own. Raises UsageError when there are too few."""
        if kind != "cuda" or self.count == 1:
            return kind
        if self.local_index >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun starts {self.local_count} processes on this machine, and torch sees "
                f"{torch.cuda.device_count()} GPUs; give each its own: --nproc-per-node {torch.cuda.device_count()}"
            )
        return f"cuda:{self.local_index}"

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
    """Waiting for the other processes. Made by `joined`."""

    def __init__(self, rank: Rank):
        self._rank = rank

    def wait(self) -> None:
        """Return once every process has called this. Raises CacheError when one of them ended before."""
        if self._rank.count == 1:
            return
        try:
            barrier = distributed.barrier(async_op=True)
            # Not waited for inside torch, where no signal would be heard.
            while not barrier.is_completed():
                time.sleep(_POLL_SECONDS)
            barrier.wait()
        except RuntimeError as error:
            raise CacheError(
                "another process of this extraction ended before it was done; its own message says why. Finished rows "
                "are kept; start the same torchrun command again."
            ) from error


@contextmanager
def joined(rank: Rank) -> Iterator[Together]:
    """Inside, the processes of torchrun can wait for each other."""
    if rank.count > 1:
        distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
    try:
        yield Together(rank)
    finally:
        if rank.count > 1:
            distributed.destroy_process_group()
