"""What heads read of a cache: features, or the tokens that go into the encoder's last block."""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from clipret.cache import FeatureCache
from clipret.heads.base import FEATURES, TOKENS
from clipret.machine.rows import among_others, batches_of_a_length
from clipret.machine.token_rows import TokenRows

Rows = torch.Tensor | TokenRows
# Bytes of tokens as float32 that a block has.
_BLOCK_BYTES = 64 << 20


def require_inputs(cache: FeatureCache, inputs: Mapping[str, str]) -> None:
    """Raise CacheError when a cache does not have what a head reads.

    inputs  image, text -> FEATURES or TOKENS
    """
    cache.require_tokens(*(side for side, kind in inputs.items() if kind == TOKENS))


def read_rows(cache: FeatureCache, side: str, rows: np.ndarray, *, kind: str) -> Rows:
    """Rows of one side as they are stored, in memory, each compared with its checksum. Raises CacheError.

    kind  FEATURES: a tensor (n, D); TOKENS: TokenRows
    """
    return cache.read_tokens(side, rows).torch() if kind == TOKENS else torch.from_numpy(cache.read(side, rows))


def example_rows(
    cache: FeatureCache, side: str, *, kind: str, count: int, generator: torch.Generator | None = None
) -> Rows:
    """`count` rows of the shape that a head reads: ones, or with a generator random numbers."""

    def fill(*shape: int) -> torch.Tensor:
        return torch.ones(shape) if generator is None else torch.randn(shape, generator=generator)

    if kind == FEATURES:
        return fill(count, cache.width(side))
    lengths = torch.from_numpy(cache.taps[side].lengths(np.zeros(count, dtype=np.int64)))
    return TokenRows(fill(int(lengths.sum()), cache.taps[side].width), lengths)


def stored_bytes(cache: FeatureCache, side: str, rows: np.ndarray, *, kind: str) -> int:
    """Bytes of these rows as they are stored."""
    if kind == TOKENS:
        return int(cache.taps[side].row_bytes(rows).sum())
    return len(rows) * cache.width(side) * cache.dtype.itemsize


def block_rows(cache: FeatureCache, side: str, *, kind: str, most: int) -> int:
    """How many rows to read at a time, `most` or as many as fit into memory beside what is computed of them."""
    if kind == FEATURES:
        return most
    tap, count = cache.taps[side], len(cache.checksums[side])
    return _fitting(most, width=tap.width, longest=int(tap.lengths(np.arange(count)).max(initial=1)))


def block_of(rows: TokenRows, *, most: int) -> int:
    """As block_rows, of rows that are in memory as they are stored."""
    return _fitting(most, width=rows.width, longest=int(rows.lengths.max()) if len(rows) else 1)


def _fitting(most: int, *, width: int, longest: int) -> int:
    return max(1, min(most, _BLOCK_BYTES // (4 * width * longest)))


def embed_block(function: Callable[[Rows], torch.Tensor], rows: Rows) -> torch.Tensor:
    """(n, E): function of rows, with the bits that each row has whatever rows it is with.

    Rows of tokens are computed with others of their length: padding would change the order of additions.
    """
    if not isinstance(rows, TokenRows):
        return among_others(function, rows)
    embedded, lengths = None, rows.lengths.numpy()
    for places in batches_of_a_length(lengths, batch_size=len(rows)):
        where = torch.from_numpy(places)
        part = among_others(function, rows if len(places) == len(rows) else rows[where])
        embedded = part.new_empty((len(rows), part.shape[1])) if embedded is None else embedded
        embedded[where.to(embedded.device)] = part
    return embedded
