"""Heads that need no training steps: solutions in closed form over all training pairs, from one pass over the cache.

A training pair is a caption with its image, so an image counts once for each of its captions. Features are read in
blocks. Grams are float64, whose error the inverse multiplies most; products with embeddings are float32 within a block,
as these are, and float64 between blocks.

Shape suffixes: P training pairs, n images and m captions of a block, D feature width, E embedding width.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch

from clipret.cache import FeatureCache
from clipret.protocols.leakage import training_images

_BLOCK = 16_384
# Of a row of zeros: as torch.nn.functional.normalize has it.
_SMALLEST_NORM = 1e-12

Projections = Mapping[str, np.ndarray]


class Block(NamedTuple):
    """Consecutive training pairs, sorted by image.

    images, texts  (n, D_i) and (m, D_t) features, float32
    counts         (n,) captions of each image among these; they stand together, in the images' order
    """

    images: np.ndarray
    texts: np.ndarray
    counts: np.ndarray


class Ridge:
    """argmin over W of sum over pairs |x W - s y|^2 + lambda |W - W0|^2, for any number of lambdas.

    x   (D,) a feature; 1 is appended where the side has a bias, and W and W0 have the bias as their last row
    y   (E,) the normalised embedding, by the baseline, of the pair's other side
    W0  the baseline's projection, s the mean norm of its outputs over the pairs: so that no lambda has to undo their
        lengths

    lambda = strength * mean of the diagonal of G, the sum over pairs of x^T x; a strength of infinity gives W0. One
    eigendecomposition G = Q L Q^T serves them all: W = Q (L + lambda)^-1 (Q^T s X^T Y + lambda Q^T W0).
    """

    def __init__(self, gram: np.ndarray, cross: np.ndarray, *, start: np.ndarray):
        """gram: G (D, D); cross: s X^T Y (D, E); start: W0 (D, E)."""
        self._start, self._unit = start, float(np.trace(gram)) / len(gram)
        values, self._vectors = np.linalg.eigh(gram)
        # Rounding can leave those of a matrix short of its full rank just below 0.
        self._values = values.clip(min=0)[:, None]
        self._cross, self._turned_start = self._vectors.T @ cross, self._vectors.T @ start

    def solve(self, strength: float) -> np.ndarray:
        """W (D, E) float64, for a strength above 0."""
        pull = strength * self._unit
        if not np.isfinite(pull):
            return self._start
        return self._vectors @ ((self._cross + pull * self._turned_start) / (self._values + pull))


class Cca:
    """Regularised canonical correlation analysis: projections of both sides under which pairs correlate the most.

    With x (D_i,) and y (D_t,) the features of a pair less their means, over all pairs, and C_xx, C_yy, C_xy their
    covariances,

        U S V^T = (C_xx + lambda_x)^-1/2 C_xy (C_yy + lambda_y)^-1/2
        W_image = (C_xx + lambda_x)^-1/2 U S    W_text = (C_yy + lambda_y)^-1/2 V S

    lambda of a side = strength * mean of the diagonal of its covariance. A direction counts by its correlation S (Gong
    et al. 2014), so that those in which pairs have nothing in common do not drown the others. E is min(D_i, D_t).
    """

    def __init__(self, grams: dict[str, np.ndarray], cross: np.ndarray, *, sums: dict[str, np.ndarray], pairs: int):
        """Over all pairs: grams X^T X (D, D) of a side, cross X_i^T X_t (D_i, D_t), sums (D,) of a side's features."""
        self._means = {side: total / pairs for side, total in sums.items()}
        self._cross = cross / pairs - np.outer(self._means["image"], self._means["text"])
        self._bases = {}
        for side, gram in grams.items():
            values, vectors = np.linalg.eigh(gram / pairs - np.outer(self._means[side], self._means[side]))
            # Rounding can leave those of a matrix short of its full rank just below 0.
            self._bases[side] = values.clip(min=0), vectors

    def solve(self, strength: float) -> dict[str, np.ndarray]:
        """SIDE/weight (D, E) and SIDE/bias (E,) of both sides, float32, for a strength above 0."""
        white = {}
        for side, (values, vectors) in self._bases.items():
            scale = (values + max(strength * values.mean(), _SMALLEST_NORM)) ** -0.5
            white[side] = (vectors * scale) @ vectors.T
        left, correlations, right = np.linalg.svd(white["image"] @ self._cross @ white["text"], full_matrices=False)
        # Which of two opposite directions is found is up to the machine, and heads of both could not be averaged.
        signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
        left, right = left * signs, right * signs[:, None]
        weights = {
            "image": white["image"] @ (left * correlations),
            "text": white["text"] @ (right.T * correlations),
        }
        biases = {f"{side}/bias": -self._means[side] @ weight for side, weight in weights.items()}
        solved = {f"{side}/weight": weight for side, weight in weights.items()} | biases
        return {name: values.astype(np.float32) for name, values in solved.items()}


def fit_cca(cache: FeatureCache, *, without_copies: bool = False) -> Cca:
    """The analysis of all training pairs, of features as they are, whether or not the cache has projections.

    without_copies  as leakage.training_images takes it

    Raises CacheError when a feature is not finite.
    """
    grams, sums = (dict.fromkeys(("image", "text"), 0.0) for _ in range(2))
    cross, pairs = 0.0, 0
    for block in pair_blocks(cache, without_copies=without_copies):
        images, texts = block.images.astype(np.float64), block.texts.astype(np.float64)
        weighted = images * block.counts[:, None]
        grams = {"image": grams["image"] + weighted.T @ images, "text": grams["text"] + texts.T @ texts}
        sums = {"image": sums["image"] + weighted.sum(0), "text": sums["text"] + texts.sum(0)}
        cross, pairs = cross + images.T @ _by_image(texts, block), pairs + len(texts)
    return Cca(grams, cross, sums=sums, pairs=pairs)


def fit_procrustes(cache: FeatureCache, projections: Projections, *, without_copies: bool = False) -> np.ndarray:
    """R (E, E) orthogonal, argmin |Z_i R - Z_t| in the Frobenius norm over the rows of all training pairs.

    Z_i and Z_t (P, E) are the normalised embeddings of images and captions. With U S V^T = Z_i^T Z_t the solution
    is R = U V^T (Schonemann 1966). By |Z_i R - Z_t| = |Z_i - Z_t R^T| its transpose does the same for the captions.

    projections     of the baseline, whose embeddings they are
    without_copies  as leakage.training_images takes it

    Raises CacheError when a feature is not finite.
    """
    cross = 0.0
    for block in pair_blocks(cache, without_copies=without_copies):
        (images, _), (texts, _) = (_embed(projections, side, block) for side in ("image", "text"))
        cross = cross + (images.T @ _by_image(texts, block)).astype(np.float64)
    left, _, right = np.linalg.svd(cross)
    return left @ right


def fit_ridge(
    cache: FeatureCache, projections: Projections, *, sides: tuple[str, ...], without_copies: bool = False
) -> dict[str, Ridge]:
    """For each of the sides, image or text, the solutions that take its features to the other's embeddings.

    projections     of the baseline
    without_copies  as leakage.training_images takes it

    Raises CacheError when a feature is not finite.
    """
    starts = {side: _with_bias(projections, side) for side in sides}
    grams, crosses, lengths, pairs = (dict.fromkeys(sides, 0.0) for _ in range(4))
    for block in pair_blocks(cache, without_copies=without_copies):
        embedded = {side: _embed(projections, side, block) for side in ("image", "text")}
        for side in sides:
            features, weights = getattr(block, f"{side}s"), np.ones(len(block.texts))
            if len(starts[side]) > features.shape[1]:
                features = np.hstack([features, np.ones((len(features), 1), dtype=np.float32)])
            if side == "image":
                weights, targets = block.counts, _by_image(embedded["text"][0], block)
            else:
                targets = np.repeat(embedded["image"][0], block.counts, axis=0)
            weighted = features.astype(np.float64) * np.sqrt(weights)[:, None]
            grams[side] = grams[side] + weighted.T @ weighted
            crosses[side] = crosses[side] + (features.T @ targets).astype(np.float64)
            lengths[side] += weights @ embedded[side][1]
            pairs[side] += weights.sum()
    return {
        side: Ridge(grams[side], crosses[side] * (lengths[side] / pairs[side]), start=starts[side]) for side in sides
    }


def pair_blocks(cache: FeatureCache, *, without_copies: bool = False) -> Iterator[Block]:
    """All training pairs. Raises CacheError when a feature is not finite, and what training_images raises."""
    (fold,) = training_images(cache, without_copies=without_copies).folds
    order = np.argsort(fold.caption_images, kind="stable")
    for start in range(0, len(order), _BLOCK):
        captions = order[start : start + _BLOCK]
        images, counts = np.unique(fold.caption_images[captions], return_counts=True)
        sides = (cache.read("image", fold.image_rows[images]), cache.read("text", fold.text_rows[captions]))
        # torch widens float16 several times as fast as numpy.
        yield Block(*(torch.from_numpy(features).float().numpy() for features in sides), counts)


def _embed(projections: Projections, side: str, block: Block) -> tuple[np.ndarray, np.ndarray]:
    """The baseline's normalised embeddings (rows, E) of one side of a block, and the norms (rows,) that they had."""
    projected = getattr(block, f"{side}s") @ projections[f"{side}/weight"]
    if f"{side}/bias" in projections:
        projected += projections[f"{side}/bias"]
    norms = np.linalg.norm(projected, axis=1).clip(min=_SMALLEST_NORM)
    projected /= norms[:, None]
    return projected, norms


def _by_image(texts: np.ndarray, block: Block) -> np.ndarray:
    """(m, E) of captions -> (n, E), the sum over each image's."""
    sums = torch.zeros(len(block.counts), texts.shape[1], dtype=torch.from_numpy(texts[:0]).dtype)
    owners = torch.from_numpy(np.repeat(np.arange(len(block.counts)), block.counts))
    return sums.index_add_(0, owners, torch.from_numpy(texts)).numpy()


def _with_bias(projections: Projections, side: str) -> np.ndarray:
    """The baseline's projection (D, E) float64, with the bias, where there is one, as one more row."""
    rows = [projections[f"{side}/weight"]]
    if f"{side}/bias" in projections:
        rows.append(projections[f"{side}/bias"][None])
    return np.vstack(rows).astype(np.float64)
