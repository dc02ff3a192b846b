"""An approximate index of usearch (HNSW), by inner products: of unit vectors the cosine."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

_DTYPES = {"float16": "f16", "float32": "f32"}


def write_index(path: Path, blocks: Iterable[np.ndarray], *, width: int, dtype: str) -> None:
    """Write an index of embeddings (n, E), their keys counted from 0 in their order. It is made in memory."""
    from usearch.index import Index

    index = Index(ndim=width, metric="ip", dtype=_DTYPES[dtype])
    for block in blocks:
        index.add(np.arange(len(index), len(index) + len(block)), block)
    index.save(str(path))


def open_index(path: Path) -> Callable[[np.ndarray, int], np.ndarray]:
    """(queries (Q, E), k) -> the numbers (Q, k) of what is found, -1 for none. Raises RuntimeError."""
    from usearch.index import Index

    index = Index.restore(str(path), view=True)
    if index is None:
        raise RuntimeError("it is no index of usearch")

    def find(queries: np.ndarray, k: int) -> np.ndarray:
        numbers = np.full((len(queries), k), -1, dtype=np.int64)
        for place, query in enumerate(queries):
            keys = index.search(query, k).keys
            numbers[place, : len(keys)] = keys
        return numbers

    return find
