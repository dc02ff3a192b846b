"""Cosines of matching and other pairs, what they say of being right, and how far apart the two sides are."""

import numpy as np

from clipret.evaluation.findings.ranked import Ranked

_BINS = 80
_ROWS = 512
_CALIBRATION = 10


def describe_similarities(ranked: Ranked) -> dict:
    """For each head, of the first gallery: edges (81 from -1 to 1); matching and other, the share of the pairs of
    captions and images in each bin; gap, the distance of the centroids of the two sides; calibration, of t2i queries in
    ten groups of equal size by their best cosine: low, high, queries and right, the share whose best item matches."""
    return {
        head: {
            **_histograms(ranked, sides),
            "gap": float(np.linalg.norm(sides["image"].mean(axis=0) - sides["text"].mean(axis=0))),
            "calibration": _calibration(ranked, head),
        }
        for head, sides in ranked.embeddings.items()
    }


def _histograms(ranked: Ranked, sides: dict[str, np.ndarray]) -> dict:
    images, texts = sides["image"], sides["text"]
    queries, items = _pairs(ranked)
    matching = np.bincount(_bins(np.einsum("pe,pe->p", texts[queries], images[items])), minlength=_BINS)
    every = np.zeros(_BINS, dtype=np.int64)
    for start in range(0, len(images), _ROWS):
        every += np.bincount(_bins(images[start : start + _ROWS] @ texts.T).ravel(), minlength=_BINS)
    other = np.maximum(every - matching, 0)
    return {
        "edges": np.linspace(-1, 1, _BINS + 1).tolist(),
        "matching": (matching / max(1, matching.sum())).tolist(),
        "other": (other / max(1, other.sum())).tolist(),
    }


def _pairs(ranked: Ranked) -> tuple[np.ndarray, np.ndarray]:
    """Captions and images that match, by the matches of t2i."""
    if ranked.fold.matches:
        return ranked.fold.matches["t2i"]
    return np.arange(len(ranked.fold.caption_images)), ranked.fold.caption_images


def _bins(cosines: np.ndarray) -> np.ndarray:
    return np.clip((cosines + 1) * (_BINS / 2), 0, _BINS - 1).astype(np.int64)


def _calibration(ranked: Ranked, head: str) -> list[dict]:
    ranks = ranked.ranks(head, "t2i")
    sides = ranked.embeddings[head]
    cosines = np.einsum("qe,qe->q", sides["text"][ranks.asking], sides["image"][ranks.top[:, 0]])
    order = np.argsort(cosines, kind="stable")
    groups = [group for group in np.array_split(order, _CALIBRATION) if len(group)]
    return [
        {
            "low": float(cosines[group[0]]),
            "high": float(cosines[group[-1]]),
            "queries": len(group),
            "right": float(np.mean(ranks.first[group] == 1)),
        }
        for group in groups
    ]
