"""Which rows are encoded, and in which batches: fixed by the data set and the batch size alone.

Batch boundaries do not depend on what an earlier call finished or on the number of processes, so a row has the same
bits whether or not its extraction was interrupted, and for any number of processes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from clipret.extraction.processes import Rank
from clipret.machine.rows import batches_of_a_length

# Batches in a block of captions: captions are sorted by length within a block, and a process owns whole blocks.
BLOCK_BATCHES = 64
_CHUNK = 4096


@dataclass(frozen=True)
class ImageBatch:
    """Image rows that are encoded together.

    rows  (B,) int64, ascending
    todo  (B,) bool, the rows to read; the other rows are zeros
    """

    rows: np.ndarray
    todo: np.ndarray


@dataclass(frozen=True)
class TextBatch:
    """Captions of one length that are encoded together.

    rows    (B,) int64
    tokens  B arrays of token ids, each as long as its caption
    counts  (B,) tokens before truncation
    """

    rows: np.ndarray
    tokens: list[np.ndarray]
    counts: np.ndarray


@dataclass(frozen=True)
class Plan:
    """Which rows are encoded, and which are copies.

    batch_size  rows in a batch, B
    sources     image, text -> (N,), (M,) int64: the first row with the same image, or the same text; itself for most
    """

    batch_size: int
    sources: dict[str, np.ndarray]

    def image_batches(self, rows: range, *, pending: np.ndarray) -> Iterator[ImageBatch]:
        """The batches with a pending image: of B consecutive rows, those that are the first with their image.

        pending  (N,) bool
        """
        for block in self._blocks("image", rows):
            first = self._firsts("image", block)
            todo = pending[first]
            if todo.any():
                yield ImageBatch(first, todo)

    def text_batches(
        self,
        rows: range,
        *,
        pending: np.ndarray,
        texts: list[str],
        tokenize: Callable[[list[str]], tuple[list[np.ndarray], np.ndarray]],
    ) -> Iterator[TextBatch]:
        """The batches with a pending caption: blocks of 64 B rows, sorted by length, cut into batches of B or fewer.

        All captions of a batch are as long: with padding, attention adds up in another order, and a caption would have
        other last bits beside a longer one than by itself.

        pending   (M,) bool
        texts     all captions, with their prompt
        tokenize  as Backbone.tokenize
        """
        for block in self._blocks("text", rows):
            first = self._firsts("text", block)
            if not pending[first].any():
                continue
            tokens, counts = tokenize([texts[row] for row in first])
            for batch in batches_of_a_length([len(ids) for ids in tokens], batch_size=self.batch_size):
                if pending[first[batch]].any():
                    yield TextBatch(first[batch], [tokens[place] for place in batch], counts[batch])

    def copies(self, side: str, rows: range, *, pending: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Chunks of (rows, sources): the pending ones of `rows` that are copied from another one of `rows`."""
        own = np.arange(rows.start, rows.stop)
        sources = self.sources[side][rows.start : rows.stop]
        copied = (sources != own) & (sources >= rows.start) & pending[rows.start : rows.stop]
        own, sources = own[copied], sources[copied]
        for start in range(0, len(own), _CHUNK):
            yield own[start : start + _CHUNK], sources[start : start + _CHUNK]

    def weights(self, side: str, rows: range) -> np.ndarray:
        """(N,) how many of `rows` are done when a row is encoded: itself and its copies; 0 for a copy."""
        sources = self.sources[side][rows.start : rows.stop]
        inside = sources[sources >= rows.start]
        return np.bincount(inside, minlength=len(self.sources[side]))

    def _blocks(self, side: str, rows: range) -> Iterator[range]:
        size = _block_size(side, self.batch_size)
        return (range(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size))

    def _firsts(self, side: str, block: range) -> np.ndarray:
        rows = np.arange(block.start, block.stop)
        return rows[self.sources[side][block.start : block.stop] == rows]


def own_rows(side: str, total: int, *, batch_size: int, rank: Rank) -> range:
    """The rows of one process: whole blocks, as equal in number as possible."""
    size = _block_size(side, batch_size)
    blocks = -(-total // size)
    start, stop = (min(total, size * (number * blocks // rank.count)) for number in (rank.index, rank.index + 1))
    return range(start, stop)


def _block_size(side: str, batch_size: int) -> int:
    return batch_size * (BLOCK_BATCHES if side == "text" else 1)
