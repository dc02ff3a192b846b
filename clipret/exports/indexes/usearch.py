"""An approximate index of usearch (HNSW), by inner products: of unit vectors the cosine."""

from collections.abc import Iterable
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
