"""DataLoader's worker processes: monitored while they work, and ended at once afterwards."""

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator

from torch.utils.data import DataLoader, Dataset

from clipret.errors import ClipretError
from clipret.machine.workers import calm_worker_signals, end_processes

_CHECK_SECONDS = 5.0


def from_workers(
    dataset: Dataset, batches: Iterable, *, workers: int, pin: bool, on_silence: Callable[[], None]
) -> Iterator:
    """The dataset's result for every batch, in the order in which they are ready.

    batches     indices into the dataset; taken as workers become free
    workers     processes; 0: this one
    pin         whether tensors come in pinned memory, for a GPU
    on_silence  called when there was no result for some seconds; may raise to stop

    Raises a ClipretError that the dataset returns instead of a result, and the errors of DataLoader when a worker
    dies. Workers are ended at once when the iterator is closed.
    """
    # Forked workers end when their parent is killed; those of a fork server, Python 3.14's default, do not. Forked
    # workers also share the model's memory.
    context = "fork" if workers and sys.platform.startswith("linux") else None
    loader = DataLoader(
        dataset,
        sampler=batches,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        multiprocessing_context=context,
        worker_init_fn=calm_worker_signals,
        in_order=False,
        timeout=_CHECK_SECONDS if workers else 0,
        pin_memory=pin,
    )
    others = set(multiprocessing.active_children())
    results = iter(loader)
    try:
        while True:
            try:
                result = next(results)
            except StopIteration:
                return
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise
                on_silence()
                continue
            if isinstance(result, ClipretError):
                raise result
            yield result
    finally:
        end_processes(set(multiprocessing.active_children()) - others)


def _as_it_is(item):
    return item
