"""Images that do not fit: with captions that fit others better, far from all others; captions of many images; a map."""

from collections import Counter

import numpy as np
import torch

from clipret.cache import FeatureCache
from clipret.evaluation.looking.leaks import plain_words
from clipret.heads.linear import LinearHead
from clipret.machine.devices import torch_threads
from clipret.retrieval.baseline import baseline_projections
from clipret.retrieval.gallery import StoredRows, embed

_BLOCK = 8192
_MAP = 20_000
_UMAP, _NEIGHBOURS = 5000, 15


def embeddings(cache: FeatureCache, *, device: str) -> dict[str, np.ndarray]:
    """image, text -> (n, E) float32 of the rows that have a feature, through the encoder's own head."""
    head = LinearHead(baseline_projections(cache)).to(device)
    functions = {"image": head.embed_images, "text": head.embed_texts}
    return {
        side: embed(function, StoredRows(cache, side, rows=cache.rows(side)), device=device).cpu().numpy()
        for side, function in functions.items()
    }


def unlikely_captions(cache: FeatureCache, sides: dict[str, np.ndarray], *, most: int) -> list[dict]:
    """Images whose own captions fit them worst, candidates for wrong labels.

    Of each image the best of its captions counts: their cosine, less the mean cosine of the image with all captions,
    less that of the caption with all images, so that neither dull images nor dull captions stand out. The lowest are
    returned: row and surplus.
    """
    images, texts = cache.rows("image"), cache.rows("text")
    places = np.searchsorted(images, cache.caption_images[texts])
    means = sides["image"] @ sides["text"].mean(axis=0), sides["text"] @ sides["image"].mean(axis=0)
    surplus = np.empty(len(texts))
    for start in range(0, len(texts), _BLOCK):
        part = slice(start, start + _BLOCK)
        owners = places[part]
        cosines = np.einsum("me,me->m", sides["text"][part], sides["image"][owners])
        surplus[part] = cosines - means[0][owners] - means[1][part]
    best = np.full(len(images), -np.inf)
    np.maximum.at(best, places, surplus)
    # An image without a caption has none that could be wrong.
    best[np.isinf(best)] = np.inf
    worst = np.argsort(best, kind="stable")[:most].tolist()
    return [{"row": int(images[place]), "surplus": float(best[place])} for place in worst if np.isfinite(best[place])]


def far_images(cache: FeatureCache, sides: dict[str, np.ndarray], *, most: int) -> list[dict]:
    """Images that are furthest from the middle of all: row and cosine with it."""
    images = sides["image"]
    middle = images.mean(axis=0)
    cosines = images @ (middle / max(float(np.linalg.norm(middle)), 1e-12))
    furthest = np.argsort(cosines, kind="stable")[:most]
    rows = cache.rows("image")
    return [{"row": int(rows[place]), "cosine": float(cosines[place])} for place in furthest.tolist()]


def shared_captions(cache: FeatureCache, *, most: int) -> list[dict]:
    """Captions that several images have, but for case and punctuation, the most frequent first: caption and images."""
    rows, captions = cache.rows("text"), cache.captions
    # In their order, so that of equally frequent ones the same are named each time.
    pairs = dict.fromkeys((plain_words(captions[row]), int(cache.caption_images[row])) for row in rows.tolist())
    counts = Counter(words for words, _ in pairs if words)
    return [{"caption": words, "images": count} for words, count in counts.most_common(most) if count > 1]


def draw_map(cache: FeatureCache, sides: dict[str, np.ndarray], *, kind: str, seed: int, most: int) -> list[dict]:
    """Images in two dimensions: row, x and y from 0 to 1.

    kind  pca: the two directions in which up to 20,000 images differ most. umap: UMAP of up to 5,000 (McInnes, Healy
          and Melville 2018), with the cosine, 15 neighbours and a distance of 0.1 at least; package umap-learn
    most  images that are returned, drawn at random
    """
    rows, generator = cache.rows("image"), np.random.default_rng(seed)
    drawn = generator.permutation(len(rows))
    places = np.sort(drawn[:most])
    points = _MAPPED[kind](sides["image"], drawn, places=places, seed=seed)
    points = (points - points.min(axis=0)) / np.ptp(points, axis=0).clip(1e-12)
    return [{"row": int(row), "x": float(x), "y": float(y)} for row, (x, y) in zip(rows[places], points, strict=True)]


def _pca(images: np.ndarray, drawn: np.ndarray, *, places: np.ndarray, seed: int) -> np.ndarray:
    basis = torch.from_numpy(images[np.sort(drawn[:_MAP])]).double()
    basis = basis - basis.mean(dim=0)
    _, _, directions = torch.linalg.svd(basis, full_matrices=False)
    points = images[places].astype(np.float64) @ directions[:2].numpy().T
    # One image, or embeddings of one number, differ in fewer than two.
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def _umap(images: np.ndarray, drawn: np.ndarray, *, places: np.ndarray, seed: int) -> np.ndarray:
    fitted = np.sort(drawn[: max(_UMAP, len(places))])
    # So few have no neighbourhoods.
    if len(fitted) <= _NEIGHBOURS:
        return _pca(images, drawn, places=places, seed=seed)
    import umap

    # One thread, which umap-learn would warn of otherwise: only so the seed decides.
    made = umap.UMAP(n_neighbors=_NEIGHBOURS, min_dist=0.1, metric="cosine", random_state=seed, n_jobs=1)
    # Libraries below it set the number of threads for the whole process.
    with torch_threads(None):
        points = made.fit_transform(images[fitted])
    return points[np.searchsorted(fitted, places)].astype(np.float64)


_MAPPED = {"pca": _pca, "umap": _umap}
