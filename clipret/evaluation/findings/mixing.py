"""wise-ft: how good the heads between the baseline and the trained one are."""

import numpy as np

from clipret.cache import FeatureCache
from clipret.errors import HeadError, UsageError
from clipret.evaluation.inputs import Inputs
from clipret.heads.base import FEATURES
from clipret.heads.interpolation import wise_ft
from clipret.protocols.protocol import split_protocol
from clipret.retrieval.baseline import baseline_projections
from clipret.retrieval.gallery import Gallery
from clipret.retrieval.metrics import rsum

WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# Of a larger split, images evenly spaced: a gallery of COCO's size takes longer than all else in a report.
_MOST_IMAGES = 1000


def mixing_curve(inputs: Inputs, *, split: str) -> dict | None:
    """Figures of the wise-ft heads at a few weights, on val where there is one, and on `split` otherwise.

    Returns split, images, of (how many images the split has), weights, rsum, t2i and i2t (R@1), a value for each
    weight. None without a trained head, for heads that read tokens, which would have to be read again for each weight,
    and for heads that are on no line with the baseline.
    """
    trained = inputs.heads.get("trained")
    if trained is None or set(trained.inputs.values()) != {FEATURES}:
        return None
    cache, projections = inputs.cache, baseline_projections(inputs.cache)
    try:
        heads = [wise_ft(trained, projections=projections, alpha=weight) for weight in WEIGHTS]
    except HeadError:
        return None
    try:
        split, (gallery, of) = "val", _gallery(cache, "val")
    except UsageError:
        gallery, of = _gallery(cache, split)
    figures = [gallery.measure(head.to(inputs.device), device=inputs.device) for head in heads]
    return {
        "split": split,
        "images": len(gallery.images),
        "of": of,
        "weights": list(WEIGHTS),
        "rsum": [rsum(directions) for directions in figures],
        **{direction: [directions[direction]["R@1"] for directions in figures] for direction in ("t2i", "i2t")},
    }


def _gallery(cache: FeatureCache, split: str) -> tuple[Gallery, int]:
    """At most _MOST_IMAGES of the split, and how many it has. Raises UsageError when it has none."""
    (fold,) = split_protocol(cache, split=split).folds
    count = len(fold.image_rows)
    if count > _MOST_IMAGES:
        kept = np.linspace(0, count - 1, _MOST_IMAGES).astype(np.int64)
        left_out = np.delete(fold.image_rows, kept)
        (fold,) = split_protocol(cache, split=split, without=left_out).folds
    return Gallery.read(cache, fold), count
