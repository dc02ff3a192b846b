"""An approximate index of faiss (HNSW), by inner products: of unit vectors the cosine."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from clipret.exports.indexes import faiss as exact

# Neighbours of an item, and how many candidates are kept when it is added, and when it is searched.
_NEIGHBOURS, _ADDING, _SEARCHING = 32, 200, 128


def write_index(path: Path, blocks: Iterable[np.ndarray], *, width: int, dtype: str) -> None:
    """Write an index of embeddings (n, E), numbered from 0 in their order. It is made in memory."""
    import faiss

    if dtype == "float16":
        quantiser = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexHNSWSQ(width, quantiser, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexHNSWFlat(width, _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = _ADDING, _SEARCHING
    exact.fill_index(index, blocks, path=path)


def open_index(path: Path) -> Callable[[np.ndarray, int], np.ndarray]:
    """(queries (Q, E), k) -> the numbers (Q, k) of what is found, -1 for none. Raises RuntimeError."""
    return exact.open_index(path)
