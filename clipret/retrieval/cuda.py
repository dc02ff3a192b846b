"""Counting with torch operations, for GPUs; the counts are the same as on the CPU."""

from dataclasses import dataclass

import numpy as np
import torch

from clipret.machine.products import Products
from clipret.machine.progress import Progress, ProgressCallback
from clipret.retrieval.ranks import Positives
from clipret.retrieval.ties import Edges

_PAIRS_AT_ONCE = 65_536


@dataclass(frozen=True)
class _Side:
    """The pairs, edges and counts of one direction, on the device; `starts` and `queries` also on the host."""

    positives: Positives
    slots: np.ndarray
    edges: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    below: torch.Tensor

    @classmethod
    def of(cls, positives: Positives, edges: Edges, *, device: torch.device) -> "_Side":
        """Counts of zero."""
        slots = np.arange(len(positives.queries)) - positives.starts[positives.queries]
        tensors = (torch.from_numpy(array).to(device) for array in (edges.edges, edges.low, edges.high))
        return cls(positives, slots, *tensors, torch.zeros(len(slots), dtype=torch.int64, device=device))

    def count(
        self, scores: torch.Tensor, *, first: int, first_item: int, asking: torch.Tensor, gallery: torch.Tensor
    ) -> None:
        """Add to the counts of the rows from `first` on the items, from first_item on, that are below their edges.

        scores (B, G), asking (B, E), gallery (G, E)
        """
        span = slice(*self.positives.starts[[first, first + len(scores)]])
        own = self._own(span, first=first, first_item=first_item, items=scores.shape[1])
        # Set above every edge while counting, so that they are not counted.
        own_scores = scores[own]
        scores[own] = torch.inf
        slots = self.slots[span]
        for slot in range(slots.max(initial=-1) + 1):
            some_pairs = np.flatnonzero(slots == slot) + span.start
            rows = torch.from_numpy(self.positives.queries[some_pairs] - first).to(scores.device)
            pairs = torch.from_numpy(some_pairs).to(scores.device)
            some = scores if len(some_pairs) == len(scores) else scores[rows]
            less, perhaps = some < self.low[pairs, None], some < self.high[pairs, None]
            self.below[pairs] += less.sum(1)
            which, items = (perhaps & ~less).nonzero(as_tuple=True)
            for part, columns in zip(which.split(_PAIRS_AT_ONCE), items.split(_PAIRS_AT_ONCE), strict=True):
                exact = (asking[rows[part]].double() * gallery[columns].double()).sum(1)
                self.below.index_add_(0, pairs[part], (exact < self.edges[pairs[part]]).long())
        scores[own] = own_scores

    def _own(self, span: slice, *, first: int, first_item: int, items: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of the pairs' matching items that are among the scored items."""
        rows, columns = self.positives.queries[span] - first, self.positives.items[span] - first_item
        here = (columns >= 0) & (columns < items)
        return tuple(torch.from_numpy(places[here]).to(self.below.device) for places in (rows, columns))


def count_by_torch(
    images: torch.Tensor,
    texts: torch.Tensor,
    *,
    positives: dict[str, Positives],
    block: int,
    top: int,
    on_progress: ProgressCallback,
    added: float = 0.0,
) -> dict[str, tuple]:
    """As cpu.count_on_cpu, with `block` images at a time against all captions."""
    embeddings = {"t2i": (texts, images), "i2t": (images, texts)}
    edges = {
        direction: Edges.of(_dots(*embeddings[direction], pairs=pairs), width=images.shape[1], added=added)
        for direction, pairs in positives.items()
    }
    device = images.device
    sides = {direction: _Side.of(pairs, edges[direction], device=device) for direction, pairs in positives.items()}
    products, best_texts = Products(images.device.type), []
    best_images = (
        texts.new_empty((len(texts), 0)),
        torch.empty((len(texts), 0), dtype=torch.int64, device=texts.device),
    )
    for start in range(0, len(images), block):
        some = images[start : start + block]
        scores = products(some[None], texts.T[None])[0]
        sides["i2t"].count(scores, first=start, first_item=0, asking=some, gallery=texts)
        sides["t2i"].count(scores.T, first=0, first_item=start, asking=texts, gallery=some)
        if top:
            best_texts.append(scores.sort(dim=1, descending=True, stable=True).indices[:, :top].cpu())
            best_images = _keep_best(*best_images, scores.T, first=start, top=top)
        on_progress(Progress("ranking", min(start + block, len(images)), len(images)))
    best = {"t2i": best_images[1].cpu().numpy(), "i2t": torch.cat(best_texts).numpy()} if top else {}
    return {direction: (side.below.cpu().numpy(), best.get(direction)) for direction, side in sides.items()}


def _dots(asking: torch.Tensor, gallery: torch.Tensor, *, pairs: Positives) -> np.ndarray:
    products = []
    for start in range(0, len(pairs.queries), _PAIRS_AT_ONCE):
        span = slice(start, start + _PAIRS_AT_ONCE)
        rows, items = (torch.from_numpy(side[span]).to(asking.device) for side in (pairs.queries, pairs.items))
        products.append((asking[rows].double() * gallery[items].double()).sum(1).cpu().numpy())
    return np.concatenate(products) if products else np.zeros(0)


def _keep_best(kept: torch.Tensor, items: torch.Tensor, scores: torch.Tensor, *, first: int, top: int) -> tuple:
    """The best of the kept items and of the new ones, from `first` on. Ties: lower index first. NaN ranks highest."""
    new = torch.arange(first, first + scores.shape[1], device=items.device).expand(len(scores), -1)
    order = torch.cat([kept, scores], dim=1).sort(dim=1, descending=True, stable=True)
    return order.values[:, :top], torch.cat([items, new], dim=1).gather(1, order.indices[:, :top])
