"""How many runs to train at once, and on how many threads."""

import contextlib
from collections.abc import Iterator

import torch

from clipret.cache import FeatureCache
from clipret.config import TrainConfig
from clipret.retrieval.baseline import baseline_projections
from clipret.training.stack import State, state_bytes

# On the CPU, stacking runs shares the overhead of launching operations, as long as the arrays fit in the CPU's cache.
_CPU_BYTES = 32 << 20
_CPU_RUNS = 64
# A step of fewer operations is as fast on one thread. And on a busy CPU, threads that synchronise about fifty times a
# step may take a hundred times as long.
_OPERATIONS_OF_A_THREAD = 50_000_000
# Share of a GPU's free memory that a stack may use.
_GPU_SHARE = 0.5


def runs_at_once(config: TrainConfig, state: State, *, cache: FeatureCache, device: str) -> int:
    """The number of runs like this one to train together, by an estimate of their memory; at least 1."""
    run_bytes = state_bytes(state) + _step_bytes(config, cache)
    if device == "cuda":
        return max(1, int(_GPU_SHARE * torch.cuda.mem_get_info()[0] / run_bytes))
    return max(1, min(_CPU_RUNS, _CPU_BYTES // run_bytes))


@contextlib.contextmanager
def fitting_threads(config: TrainConfig, *, cache: FeatureCache, runs: int) -> Iterator[None]:
    """Use one thread for small steps; restores torch's number of threads afterwards."""
    before = torch.get_num_threads()
    if runs * _step_operations(config, cache) < _OPERATIONS_OF_A_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rows(config: TrainConfig) -> int:
    return config.batch_size * (1 + 2 * config.hard_negatives)


def _widths(cache: FeatureCache) -> list[tuple[int, int]]:
    """(D, E) of either side."""
    projections = baseline_projections(cache)
    return [projections[f"{side}/weight"].shape for side in ("image", "text")]


def _step_operations(config: TrainConfig, cache: FeatureCache) -> int:
    """Operations in the matrix products of one step of a linear head; an adapter takes about as many."""
    rows, widths = _rows(config), _widths(cache)
    projections = sum(4 * rows * features * embedding for features, embedding in widths)
    return projections + 6 * rows * rows * widths[0][1]


def _step_bytes(config: TrainConfig, cache: FeatureCache) -> int:
    """Bytes that a step of a run allocates: features, embeddings and their gradients, four matrices of all pairs."""
    rows, widths = _rows(config), _widths(cache)
    return 4 * (rows * sum(features + 3 * embedding for features, embedding in widths) + 4 * rows * rows)
