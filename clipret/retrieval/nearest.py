"""The best items of queries, exactly, over embeddings in memory or mapped from a file.

A few queries are compared with every item as it is stored: each is read once, which takes as long as the memory needs
to deliver it. Many queries are multiplied with blocks of items. Either keeps candidates by float32 scores; what is
returned is decided by float64 scores of these, and of all others that float32 cannot tell from them.

Shape suffixes: N items, E width, Q queries, T candidates.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from clipret.machine.devices import one_thread_each
from clipret.machine.instructions import HALVES
from clipret.machine.products import Products
from clipret.retrieval import scan_kernels
from clipret.retrieval.ties import TIE_TOLERANCE, slack

# More queries than these are multiplied, not scanned.
_FEW = 4
# Items at a time: a few megabytes of float32, which fit the processor's caches.
_BLOCK = 2048
# Items of a scan that a thread takes at a time.
_SPAN = 16_384
# Candidates beside the k that are asked for, so that nearly never all scores are needed.
_SPARE = 16
_ALL = np.empty(0, dtype=np.int64)


def nearest(
    queries: np.ndarray, items: np.ndarray, *, k: int, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of each query by their cosine, best first; ties: lower row first.

    queries  (Q, E) float32, of norm 1
    items    (N, E) float32 or float16, of norm 1, contiguous; a memory map is read once for up to 4 queries, and once
             for each block of more
    rows     (n,) the items that are searched, ascending; None: all

    Returns scores (Q, K) float64 and rows (Q, K) int64; K is k, or the number of items where there are fewer. Scores
    are sums in float64 of the numbers as they are stored. The result is the same for any number of threads.
    """
    searched = _ALL if rows is None else np.ascontiguousarray(rows, dtype=np.int64)
    count = len(items) if rows is None else len(searched)
    k = min(k, count)
    if not k or not len(queries):
        return np.empty((len(queries), k)), np.empty((len(queries), k), dtype=np.int64)
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    finder = _Finder(items, searched, count, kept=min(k + _SPARE, count))
    scores, best = finder.candidates(queries)
    found = [_settled(finder, query, *kept, k=k) for query, *kept in zip(queries, scores, best, strict=True)]
    return np.stack([part[0] for part in found]), np.stack([part[1] for part in found])


class _Finder:
    """Candidates by float32 scores.

    kept  T
    """

    def __init__(self, items: np.ndarray, rows: np.ndarray, count: int, *, kept: int):
        self.items, self.rows, self.count, self.kept = items, rows, count, kept
        half = items.dtype == np.float16
        # What compiled loops read; without the instruction that converts, numpy does.
        self.compiled = items.view(np.uint16) if half and HALVES else None if half else items
        self.exact_products = Products("cpu")

    def candidates(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Float32 scores (Q, T) and rows (Q, T), best first."""
        scans = len(queries) <= _FEW and self.compiled is not None
        work, size = (self._scan, _SPAN) if scans else (self._multiply, _BLOCK)
        spans = [(first, min(first + size, self.count)) for first in range(0, self.count, size)]
        threads = max(1, min(torch.get_num_threads(), len(spans)))
        kept = [self._nothing(len(queries)) for _ in range(threads)]
        if threads == 1:
            for span in spans:
                work(span, queries, kept[0])
            return kept[0]
        with one_thread_each(threads) as pool:
            self._share(pool, spans, lambda span, mine: work(span, queries, mine), kept=kept)
        scores, best = (np.concatenate(parts, axis=1) for parts in zip(*kept, strict=True))
        order = np.lexsort((best, -scores), axis=1)[:, : self.kept]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(best, order, axis=1)

    def all_scores(self, query: np.ndarray) -> np.ndarray:
        """(n,) float32 scores of one query with everything that is searched."""
        scores = np.empty(self.count, dtype=np.float32)
        for first in range(0, self.count, _BLOCK):
            values = self._values(first, min(first + _BLOCK, self.count))
            scores[first : first + len(values)] = values @ query
        return scores

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """The rows at these places of what is searched."""
        return self.rows[places] if len(self.rows) else places

    def _nothing(self, queries: int) -> tuple[np.ndarray, np.ndarray]:
        shape = (queries, self.kept)
        return np.full(shape, -np.inf, dtype=np.float32), np.full(shape, np.iinfo(np.int64).max, dtype=np.int64)

    @staticmethod
    def _share(pool: ThreadPoolExecutor, spans: list, work, *, kept: list) -> None:
        idle = list(kept)

        def take(span: tuple[int, int]) -> None:
            # Never empty: there are as many as threads.
            mine = idle.pop()
            try:
                work(span, mine)
            finally:
                idle.append(mine)

        for future in [pool.submit(take, span) for span in spans]:
            future.result()

    def _scan(self, span: tuple[int, int], queries: np.ndarray, kept: tuple[np.ndarray, np.ndarray]) -> None:
        for query, scores, best in zip(queries, *kept, strict=True):
            scan_kernels.scan(self.compiled, self.rows, *span, query, scores, best)

    def _multiply(self, span: tuple[int, int], queries: np.ndarray, kept: tuple[np.ndarray, np.ndarray]) -> None:
        values = torch.from_numpy(self._values(*span))
        tile = self.exact_products(torch.from_numpy(queries)[None], values.T[None])[0].numpy()
        numbers = self.numbers(np.arange(*span))
        scan_kernels.keep_rows(tile, numbers, *kept)

    def _values(self, first: int, last: int) -> np.ndarray:
        """Items at these places, as float32."""
        if self.compiled is None:
            return self.items[self.numbers(np.arange(first, last))].astype(np.float32)
        values = np.empty((last - first, self.items.shape[1]), dtype=np.float32)
        scan_kernels.widen(self.compiled, self.rows, first, last, values)
        return values


def _settled(
    finder: _Finder, query: np.ndarray, scores: np.ndarray, rows: np.ndarray, *, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (k,) float64 and rows (k,) of one query, from its candidates (T,)."""
    exact = exact_scores(finder.items, rows, query)
    order = np.lexsort((rows, -exact))[:k]
    # An item that was not kept scores at most what the last candidate does; float32 may be off by this much, twice.
    doubt = 2 * slack(finder.items.shape[1])
    if len(rows) < finder.count and exact[order[-1]] - scores[-1] < doubt:
        rows = finder.numbers(np.flatnonzero(finder.all_scores(query) >= exact[order[-1]] - doubt))
        exact = exact_scores(finder.items, rows, query)
        order = np.lexsort((rows, -exact))[:k]
    return exact[order], rows[order]


def exact_scores(items: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """(n,) float64 scores; numpy adds each row's numbers in the same order, so that equal items have equal scores."""
    return (items[rows].astype(np.float64) * query.astype(np.float64)).sum(axis=1)


def place_of(query: np.ndarray, items: np.ndarray, *, item: int, rows: np.ndarray | None = None) -> int:
    """The rank of one item for a query, from 1; ties count against it, as in eval.

    query  (E,) float32
    item   row of items
    rows   as of `nearest`, with the item among them
    """
    searched = _ALL if rows is None else np.ascontiguousarray(rows, dtype=np.int64)
    count = len(items) if rows is None else len(searched)
    finder = _Finder(items, searched, count, kept=1)
    edge = float(exact_scores(items, np.array([item]), query)[0]) - TIE_TOLERANCE
    scores, doubt = finder.all_scores(np.ascontiguousarray(query, dtype=np.float32)), slack(items.shape[1])
    above = int(np.sum(scores >= edge + doubt))
    unsure = finder.numbers(np.flatnonzero((scores < edge + doubt) & (scores > edge - doubt)))
    # The item itself is above its own edge.
    return above + int(np.sum(exact_scores(items, unsure, query) >= edge))
