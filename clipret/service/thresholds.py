"""A cosine from which on hits are mostly right: calibrated on val, so that "nothing found" is a possible answer."""

import numpy as np

from clipret.errors import UsageError
from clipret.retrieval.gallery import read_validation
from clipret.retrieval.nearest import nearest
from clipret.service.searching import Searcher


def calibrate(searcher: Searcher, head: str, *, side: str, precision: float, k: int) -> dict:
    """The lowest cosine from which on at least a share of hits on val match.

    Every caption of val is a query among the images of val, or every image among its captions; its k best are hits, and
    a hit matches when caption and image belong together.

    side       image or text, of what is looked for
    precision  the share

    Returns value, precision (the share that was reached), val_hits (how many are at the value or above) and
    val_matching (how many of all matching pairs these have, a share).

    Raises UsageError without a val split, or when no cosine reaches the precision.
    """
    gallery = read_validation(searcher.cache)
    if gallery is None:
        raise UsageError(f"--min-score auto is found on split val, and {searcher.cache.path} has none; give a number.")
    trained = searcher.heads[head].trained.head
    embeddings = {key: value.cpu().numpy() for key, value in gallery.embed(trained, device=_device(trained)).items()}
    asking, items = (embeddings["text"], embeddings["image"]) if side == "image" else embeddings.values()
    scores, places = nearest(asking, items, k=k)
    if side == "image":
        matching = places == gallery.caption_images[:, None]
    else:
        matching = gallery.caption_images[places] == np.arange(len(asking))[:, None]
    value, share, kept = lowest_value(scores.ravel(), matching.ravel(), precision=precision)
    if value is None:
        raise UsageError(
            f"no cosine has {precision:.0%} of the hits on val right; the best has {share:.0%}: give a lower "
            f"--precision, or a number to --min-score."
        )
    found = int(np.sum(matching & (scores >= value)))
    return {
        "value": value,
        "precision": share,
        "val_hits": kept,
        "val_matching": found / len(gallery.caption_images),
    }


def lowest_value(scores: np.ndarray, matching: np.ndarray, *, precision: float) -> tuple[float | None, float, int]:
    """The lowest score from which on at least a share of pairs match; that share, and how many pairs there are.

    scores, matching  (P,)

    Where no score will do: None, the largest share, and 0.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    shares = np.cumsum(matching[order]) / np.arange(1, len(order) + 1)
    # Pairs of equal scores are taken or left together.
    ends = np.append(sorted_scores[1:] != sorted_scores[:-1], True)
    good = np.flatnonzero(ends & (shares >= precision))
    if not len(good):
        return None, float(shares[ends].max(initial=0.0)), 0
    last = good[-1]
    return float(sorted_scores[last]), float(shares[last]), int(last) + 1


def _device(head) -> str:
    return next(iter(head.tensors.values())).device.type
