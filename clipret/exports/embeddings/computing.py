"""Embeddings of a cache through a head, a block at a time: the next block is read while one is computed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from clipret.cache import FeatureCache
from clipret.exports.embeddings.rows import Span
from clipret.heads.base import TOKENS, Head
from clipret.retrieval.gallery import StoredRows, embed, require_unit
from clipret.retrieval.inputs import example_rows, read_rows


def embedding_blocks(
    cache: FeatureCache, head: Head, *, spans: list[Span], dtype: str, device: str
) -> Iterator[np.ndarray]:
    """(n, E) unit embeddings of each span, as eval computes them, rounded to dtype.

    head  on the device

    Raises CacheError when a feature is not finite, HeadError when an embedding is not of unit length.
    """
    functions = {"image": head.embed_images, "text": head.embed_texts}
    with ThreadPoolExecutor(1, thread_name_prefix="clipret-features") as pool:

        def ahead(number: int):
            span = spans[number] if number < len(spans) else None
            return span and pool.submit(_rows_of, cache, span, kind=head.inputs[span.side])

        reading = ahead(0)
        for number, span in enumerate(spans):
            features = reading.result()
            reading = ahead(number + 1)
            embeddings = embed(functions[span.side], features, device=device)
            require_unit(head, span.side, embeddings, features=features, rows=span.rows)
            yield embeddings.to(getattr(torch, dtype)).cpu().numpy()


def _rows_of(cache: FeatureCache, span: Span, *, kind: str) -> torch.Tensor | StoredRows:
    """Features in memory; tokens, of which a span may have gigabytes, are read as they are computed with."""
    if kind == TOKENS:
        return StoredRows(cache, span.side, rows=span.rows, kind=kind)
    return read_rows(cache, span.side, span.rows, kind=kind).float()


def embedding_width(head: Head, cache: FeatureCache, *, side: str) -> int:
    """E, of any head."""
    function, kind = head.embed_images if side == "image" else head.embed_texts, head.inputs[side]
    with torch.no_grad():
        return function(example_rows(cache, side, kind=kind, count=2)).shape[1]
