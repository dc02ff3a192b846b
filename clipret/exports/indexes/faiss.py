"""An exact index of faiss, by inner products: of unit vectors the cosine."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np


def write_index(path: Path, blocks: Iterable[np.ndarray], *, width: int, dtype: str) -> None:
    """Write an index of embeddings (n, E), numbered from 0 in their order. It is made in memory."""
    import faiss

    if dtype == "float16":
        index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexFlatIP(width)
    for block in blocks:
        block = np.ascontiguousarray(block, dtype=np.float32)
        index.train(block)
        index.add(block)
    faiss.write_index(index, str(path))
