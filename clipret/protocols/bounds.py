"""The best metrics that any head can reach under a protocol, when several images have equal captions.

Equal captions have equal embeddings under any head, and ties count against us. So of the images that share a text only
one can be ranked first for it, and an image finds its own caption after all equal ones of other images.

Shape suffixes: M captions of a gallery, Q queries.
"""

from statistics import fmean

import numpy as np

from clipret.cache import FeatureCache
from clipret.metrics import METRICS, QueryRanks, values_of
from clipret.protocols.protocol import Fold, Protocol


def best_reachable(
    cache: FeatureCache, protocol: Protocol, *, k: tuple[int, ...]
) -> dict[str, dict[str, float]] | None:
    """{"t2i": {"R@1": ...}, "i2t": {...}}, an upper bound on every metric whose row says `reachable`, at these K.

    For several galleries it is the mean. Texts are equal if their FeatureCache.text_digests are. Duplicate images are
    not taken into account.

    Returns None when the protocol has matches of its own (CxC, ECCV Caption).
    """
    if protocol.name == "split-equal-texts":
        ones = np.ones(1, dtype=np.int64)
        best = [{"t2i": ones, "i2t": ones} for _ in protocol.folds]
    elif any(fold.matches for fold in protocol.folds):
        return None
    else:
        best = [_best_ranks(cache, fold) for fold in protocol.folds]
    figures: dict = {"t2i": {}, "i2t": {}}
    for fold, ranks in zip(protocol.folds, best, strict=True):
        for direction, gallery in (("t2i", len(fold.image_rows)), ("i2t", len(fold.text_rows))):
            for name, figure in _reachable(ranks[direction], gallery=gallery, k=k).items():
                figures[direction].setdefault(name, []).append(figure)
    return {side: {name: fmean(folds) for name, folds in metrics.items()} for side, metrics in figures.items()}


def _reachable(best: np.ndarray, *, gallery: int, k: tuple[int, ...]) -> dict[str, float]:
    """The reachable metrics when the first matching item of each query has rank best (Q,)."""
    ranks = QueryRanks(best, np.arange(len(best) + 1), gallery)
    figures = {}
    for family, metric in METRICS.items():
        if metric.reachable:
            figures |= {name: metric.combined(values) for name, values in values_of(family, ranks, k=k).items()}
    return figures


def _best_ranks(cache: FeatureCache, fold: Fold) -> dict[str, np.ndarray]:
    """(Q,) from 1, the best rank that the first matching item of each query can have."""
    texts = np.unique(cache.text_digests(fold.text_rows), return_inverse=True)[1]
    owned, places, counts = np.unique(
        np.stack([texts, fold.caption_images]), axis=1, return_inverse=True, return_counts=True
    )
    # numpy before 2.1 returns `places` with an extra axis.
    owned_texts, owners = owned
    places = places.reshape(-1)
    # All captions of one text rank their images in the same order; the best one is by how many of them an image has.
    order = np.lexsort((-counts, owned_texts))
    stands = np.empty(len(order), dtype=np.int64)
    stands[order] = 1 + np.arange(len(order)) - np.searchsorted(owned_texts, owned_texts[order])
    # Captions of other images with the same text tie with the image's own.
    behind = 1 + np.bincount(texts)[owned_texts] - counts
    first = np.full(len(fold.image_rows), np.iinfo(np.int64).max)
    np.minimum.at(first, owners, behind)
    return {"t2i": stands[places], "i2t": first[np.unique(owners)]}
