"""An exact index of faiss, by inner products: of unit vectors the cosine."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np


def write_index(path: Path, blocks: Iterable[np.ndarray], *, width: int, dtype: str) -> None:
    """Write an index of embeddings (n, E), numbered from 0 in their order. It is made in memory."""
    import faiss

    if dtype == "float16":
        index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexFlatIP(width)
    fill_index(index, blocks, path=path)


def fill_index(index, blocks: Iterable[np.ndarray], *, path: Path) -> None:
    """Add embeddings to an index, and write it."""
    import faiss

    for block in blocks:
        block = np.ascontiguousarray(block, dtype=np.float32)
        index.train(block)
        index.add(block)
    faiss.write_index(index, str(path))


def open_index(path: Path) -> Callable[[np.ndarray, int], np.ndarray]:
    """(queries (Q, E), k) -> the numbers (Q, k) of what is found, -1 for none. Raises RuntimeError."""
    import faiss

    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    return lambda queries, k: index.search(np.ascontiguousarray(queries, dtype=np.float32), k)[1]
