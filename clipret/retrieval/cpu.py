"""Counting on the CPU: tiles are distributed over threads, each with its own counts."""

from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import dataclass

import numpy as np
import torch

from clipret.machine.devices import one_thread_each
from clipret.machine.products import Products, keep_freed_memory
from clipret.machine.progress import Progress, ProgressCallback
from clipret.retrieval.ranks import Positives
from clipret.retrieval.ties import Edges

# With 512 images a tile is 4 MiB. Narrower tiles make the product slower, wider ones do not fit in the CPU's caches.
CAPTIONS_AT_ONCE = 2048
_MOST_KEPT = 31 << 20
_NOTHING = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Work:
    """The inputs of counting: side ("image", "text") -> embeddings, direction -> pairs and their edges."""

    embeddings: dict[str, torch.Tensor]
    positives: dict[str, Positives]
    edges: dict[str, Edges]
    top: int

    def counts(self) -> "_Counts":
        """Counts of zero."""
        rows = {"i2t": len(self.embeddings["image"]), "t2i": len(self.embeddings["text"])}
        gallery = {"i2t": len(self.embeddings["text"]), "t2i": len(self.embeddings["image"])}
        best = {}
        for direction, count in rows.items():
            shape = (count, min(self.top, gallery[direction]))
            best[direction] = (np.full(shape, -np.inf, dtype=np.float32), np.full(shape, _NOTHING, dtype=np.int64))
        below = {direction: np.zeros(len(pairs.queries), dtype=np.int32) for direction, pairs in self.positives.items()}
        return _Counts(below, best)


@dataclass(frozen=True)
class _Counts:
    """The counts of one thread.

    below  direction -> (P,)
    best   direction -> scores and items (rows, T) of the best items so far
    """

    below: dict[str, np.ndarray]
    best: dict[str, tuple[np.ndarray, np.ndarray]]


def count_on_cpu(
    images: torch.Tensor,
    texts: torch.Tensor,
    *,
    positives: dict[str, Positives],
    block: int,
    top: int,
    on_progress: ProgressCallback,
    added: float = 0.0,
) -> dict[str, tuple]:
    """Direction -> the number of non-matching items below each pair's edge (P,), and the best items (rows, T) or None.

    Parameters as in engine.rank, and `added` as in ties.slack.
    """
    # Here, for numba takes 60 MiB: what only makes embeddings does without.
    from clipret.retrieval import kernels

    sides = {"t2i": (texts.numpy(), images.numpy()), "i2t": (images.numpy(), texts.numpy())}
    bounds = {"width": images.shape[1], "added": added}
    edges = {
        direction: Edges.of(kernels.dots(*sides[direction], pairs.queries, pairs.items), **bounds)
        for direction, pairs in positives.items()
    }
    work = _Work({"image": images, "text": texts}, positives, edges, top)
    tiles = [
        (slice(row, row + block), slice(column, column + CAPTIONS_AT_ONCE))
        for row in range(0, len(images), block)
        for column in range(0, len(texts), CAPTIONS_AT_ONCE)
    ]
    counted = _share(tiles, work, on_done=lambda done: on_progress(_progress(done, len(tiles), images=len(images))))
    best = _merge(counted) if top else dict.fromkeys(positives)
    below = counted[0].below
    for others in counted[1:]:
        for direction, counts in below.items():
            counts += others.below[direction]
    return {direction: (below[direction], best[direction]) for direction in positives}


def _progress(done: int, tiles: int, *, images: int) -> Progress:
    return Progress("ranking", images * done // tiles, images)


def _share(tiles: list[tuple[slice, slice]], work: _Work, *, on_done: Callable[[int], None]) -> list[_Counts]:
    """Count all tiles with as many threads as torch uses; on_done is called in this thread with the number done."""
    threads = min(torch.get_num_threads(), len(tiles))
    counted = [work.counts() for _ in range(max(1, threads))]
    if threads <= 1:
        for done, tile in enumerate(tiles, start=1):
            _count(tile, work, counted[0])
            on_done(done)
        return counted
    # Enough for the scores of a tile, the largest of the arrays that are allocated again and again.
    images, texts = tiles[0]
    keep_freed_memory(min(4 * (images.stop - images.start) * (texts.stop - texts.start) + (1 << 20), _MOST_KEPT))
    idle = list(counted)

    def take(tile: tuple[slice, slice]) -> None:
        # Never empty: there are as many counts as threads.
        counts = idle.pop()
        try:
            _count(tile, work, counts)
        finally:
            idle.append(counts)

    with one_thread_each(threads) as pool:
        for done, future in enumerate(as_completed([pool.submit(take, tile) for tile in tiles]), start=1):
            future.result()
            on_done(done)
    return counted


def _count(tile: tuple[slice, slice], work: _Work, counts: _Counts) -> None:
    from clipret.retrieval import kernels

    images, texts = (work.embeddings[side][span] for side, span in zip(("image", "text"), tile, strict=True))
    scores = Products("cpu")(images[None], texts.T[None])[0].numpy()
    images, texts = images.numpy(), texts.numpy()
    for direction, count, asking, gallery, (first, first_item) in (
        ("i2t", kernels.count_rows, images, texts, (tile[0].start, tile[1].start)),
        ("t2i", kernels.count_columns, texts, images, (tile[1].start, tile[0].start)),
    ):
        starts = work.positives[direction].starts[first : first + len(asking) + 1]
        pairs = slice(starts[0], starts[-1])
        edges, below = work.edges[direction], counts.below[direction][pairs]
        matching = work.positives[direction].items[pairs] - first_item
        count(scores, asking, gallery, starts - starts[0], matching, edges.parts(pairs), below)
    if work.top:
        rows, columns = (
            np.arange(span.start, span.start + size) for span, size in zip(tile, scores.shape, strict=True)
        )
        best = {
            direction: tuple(kept[span] for kept in counts.best[direction])
            for direction, span in zip(("i2t", "t2i"), tile, strict=True)
        }
        kernels.keep_best(scores, rows, columns, best["i2t"], best["t2i"])


def _merge(counted: list[_Counts]) -> dict[str, np.ndarray]:
    """Direction -> (rows, T) the best items over all threads."""
    merged = {}
    for direction in counted[0].best:
        best = [counts.best[direction] for counts in counted]
        scores, items = (np.concatenate(parts, axis=1) for parts in zip(*best, strict=True))
        order = np.lexsort((items, -scores), axis=1)[:, : best[0][0].shape[1]]
        merged[direction] = np.take_along_axis(items, order, axis=1)
    return merged
