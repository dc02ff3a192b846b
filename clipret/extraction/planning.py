"""Which rows are encoded, and in which batches: fixed by the data set and the batch size alone.

Neither what an earlier call finished nor the number of processes moves a batch's boundary, so a row gets the same bits
whether its extraction was interrupted or not, and by however many processes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from clipret.extraction.processes import Rank

# Batches a block of captions: captions are sorted by length within it, and a process owns whole blocks.
BLOCK_BATCHES = 64
_CHUNK = 4096


@dataclass(frozen=True)
class ImageBatch:
    """Image rows that are encoded together.

    rows  (B,) int64, ascending
    todo  (B,) bool, the rows to read; the others leave zeros in their place
    """

    rows: np.ndarray
    todo: np.ndarray


@dataclass(frozen=True)
class TextBatch:
    """Captions that are encoded together, of nearly the same length.

    rows    (B,) int64
    tokens  B arrays of token ids, each as long as its caption
    counts  (B,) tokens before truncation
    """

    rows: np.ndarray
    tokens: list[np.ndarray]
    counts: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What is to be encoded, of all rows.

    batch_size  rows a batch, B
    sources     image, text -> (N,), (M,) int64: the first row with the same image, or the same text; itself for most
    """

    batch_size: int
    sources: dict[str, np.ndarray]

    def image_batches(self, rows: range, *, pending: np.ndarray) -> Iterator[ImageBatch]:
        """The batches with an image to do: of each B consecutive rows those that are the first with their image.

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
        """The batches with a caption to do: blocks of 64 B rows, sorted by length, cut into B.

        pending   (M,) bool
        texts     of all captions
        tokenize  as Backbone.tokenize
        """
        for block in self._blocks("text", rows):
            first = self._firsts("text", block)
            if not pending[first].any():
                continue
            tokens, counts = tokenize([texts[row] for row in first])
            # Stable, so that captions of the same length keep their order.
            order = np.argsort([len(ids) for ids in tokens], kind="stable")
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                if pending[first[chosen]].any():
                    yield TextBatch(first[chosen], [tokens[place] for place in chosen], counts[chosen])

    def copies(self, side: str, rows: range, *, pending: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Chunks of (rows, sources): rows to do among `rows` that are done by copying another one of `rows`."""
        own = np.arange(rows.start, rows.stop)
        sources = self.sources[side][rows.start : rows.stop]
        chosen = (sources != own) & (sources >= rows.start) & pending[rows.start : rows.stop]
        own, sources = own[chosen], sources[chosen]
        for start in range(0, len(own), _CHUNK):
            yield own[start : start + _CHUNK], sources[start : start + _CHUNK]

    def weights(self, side: str, rows: range) -> np.ndarray:
        """(N,) how many of `rows` get their feature when a row is encoded: itself and its copies; 0 for a copy."""
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
    """The rows of one process: whole blocks, as many as the others have, or one more or less."""
    size = _block_size(side, batch_size)
    blocks = -(-total // size)
    start, stop = (min(total, size * (number * blocks // rank.count)) for number in (rank.index, rank.index + 1))
    return range(start, stop)


def _block_size(side: str, batch_size: int) -> int:
    return batch_size * (BLOCK_BATCHES if side == "text" else 1)
