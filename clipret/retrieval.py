"""Embeddings -> exact ranks of the matching items, in blocks. The only place that multiplies queries by gallery.

Shape suffixes: Q queries, G gallery items, P matching pairs, E embedding width.
"""

from dataclasses import dataclass

import numpy as np
import torch

from clipret.config import EvalConfig

# Scores closer than this tie. Equal embeddings can score differently in the last bits of fp32, depending on the block
# they fall in; for unit vectors that difference stays well below 1e-6.
TIE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Ranks:
    """Where each query's matching items stand in its ranking.

    ranks    (P,) int64 from 1, ascending within a query
    offsets  (Q + 1,) int64; the ranks of query q are ranks[offsets[q]:offsets[q + 1]], at least one
    gallery  number of items ranked
    """

    ranks: np.ndarray
    offsets: np.ndarray
    gallery: int

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(self.offsets) - 1

    @property
    def first(self) -> np.ndarray:
        """(Q,) rank of each query's best-placed matching item."""
        return self.ranks[self.offsets[:-1]]

    @property
    def positives(self) -> np.ndarray:
        """(Q,) number of matching items of each query."""
        return np.diff(self.offsets)


def rank_both_directions(
    image_embeddings: torch.Tensor,
    text_embeddings: torch.Tensor,
    *,
    caption_images: np.ndarray,
    block: int = EvalConfig.block,
) -> dict[str, Ranks]:
    """Rank images for every caption (t2i) and captions for every image that has one (i2t).

    image_embeddings  (N, E) float32, L2-normalised
    text_embeddings   (M, E) float32, L2-normalised
    caption_images    (M,) the row of each caption's image
    block             queries scored at once

    Returns {"t2i": Ranks, "i2t": Ranks}. An image without a caption stays in t2i's gallery and asks nothing in i2t.
    """
    caption_images = np.asarray(caption_images, dtype=np.int64)
    captions = np.arange(len(caption_images))
    t2i = rank_positives(text_embeddings, image_embeddings, pairs=(captions, caption_images), block=block)
    images, queries = np.unique(caption_images, return_inverse=True)
    asking = image_embeddings[torch.from_numpy(images).to(image_embeddings.device)]
    i2t = rank_positives(asking, text_embeddings, pairs=(queries, captions), block=block)
    return {"t2i": t2i, "i2t": i2t}


def rank_positives(
    queries: torch.Tensor, gallery: torch.Tensor, *, pairs: tuple[np.ndarray, np.ndarray], block: int = EvalConfig.block
) -> Ranks:
    """Exact rank of every matching item, without sorting the gallery.

    queries  (Q, E) float32, L2-normalised
    gallery  (G, E) float32, L2-normalised, on the same device
    pairs    matching (query rows, gallery rows), (P,) each; every query has at least one
    block    queries scored at once: memory is about 5 * block * G bytes

    An item's rank is 1 + the other items that score at least as high: ties count against us. Matching items of the same
    query do not count against each other beyond their own order. A NaN score loses against everything, and a NaN
    gallery item beats everything, so broken embeddings cannot score well.
    """
    order = np.argsort(pairs[0], kind="stable")
    rows, items = (torch.from_numpy(np.asarray(side, dtype=np.int64)[order]) for side in pairs)
    offsets = np.searchsorted(rows.numpy(), np.arange(len(queries) + 1))
    if len(queries) and np.diff(offsets).min() < 1:
        raise ValueError(f"query {int(np.diff(offsets).argmin())} has no matching item")
    beaten_by = torch.empty(len(rows), dtype=torch.int64)
    for start in range(0, len(queries), block):
        stop = min(start + block, len(queries))
        span = slice(int(offsets[start]), int(offsets[stop]))
        scores = queries[start:stop] @ gallery.T
        beaten_by[span] = _count_better(scores, rows[span] - start, items[span]).cpu()
    # Within a query, its own matching items stand in the order of their scores, hence of what beats them.
    rows, beaten_by = rows.numpy(), beaten_by.numpy()
    beaten_by = beaten_by[np.lexsort((beaten_by, rows))]
    place = np.arange(len(rows)) - offsets[rows]
    return Ranks(ranks=beaten_by + place + 1, offsets=offsets, gallery=len(gallery))


def _count_better(scores: torch.Tensor, rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """For each pair (row, item) of a block: how many items that do not match the row score at least as high.

    scores (B, G) is overwritten. Returns (pairs,) int64.
    """
    rows, items = rows.to(scores.device), items.to(scores.device)
    thresholds = scores[rows, items] - TIE_TOLERANCE
    scores[rows, items] = -torch.inf
    counts = torch.empty(len(rows), dtype=torch.int64, device=scores.device)
    first_of_row = torch.searchsorted(rows, torch.arange(len(scores), device=rows.device))
    slots = torch.arange(len(rows), device=rows.device) - first_of_row[rows]
    for slot in range(int(slots.max()) + 1 if len(rows) else 0):
        chosen = (slots == slot).nonzero().squeeze(1)
        block = scores if len(chosen) == len(scores) else scores[rows[chosen]]
        # Not "greater or equal": a comparison with NaN is False, and must count against the pair.
        counts[chosen] = scores.shape[1] - (block < thresholds[chosen, None]).sum(1)
    return counts
