"""A term beside the loss that keeps neighbours: items of a batch that are alike by their features stay so.

With few training pairs a head can fit them by moving all else about. As in Gröger et al., With Limited Data for
Multimodal Alignment, Let the STRUCTURE Guide You, NeurIPS 2025, the similarities within a side are held to those of the
encoder's features; here by the divergence of their softmax, at one temperature, without the item itself.

Shape suffixes: S runs, B items of a batch, D width of the features, E embedding width.
"""

from typing import NamedTuple

import torch

from clipret.machine.products import Products

# Small enough for the nearest few of a batch to count most.
TEMPERATURE = 0.07
# A block of similarities holds as many items as fit in this, to stay in the processor's cache; about six matrices of
# that size exist at a time.
_BLOCK_BYTES = 24 << 20
# Below all similarities: an item is no neighbour of itself.
_APART = -1e30


class Kept(NamedTuple):
    """The term of one side and its derivatives.

    value      (S,)
    gradient   (S, E, B), by the embeddings
    along      (S, 1, B), inner products of the gradient with the embeddings
    """

    value: torch.Tensor
    gradient: torch.Tensor
    along: torch.Tensor


def keep_neighbours(
    embeddings: torch.Tensor, features: torch.Tensor, *, weights: torch.Tensor, products: Products
) -> Kept:
    """The mean over items of KL(q || p), times each run's weight.

    embeddings  (S, E, B) of unit length
    features    (S or 1, B, D); their mean over the batch is taken off, and what is left scaled to unit length
    weights     (S,)

    p and q are the softmax, over the other items, of the cosines of embeddings, and of features, over TEMPERATURE. 0
    for fewer than two items. The matrices are made in blocks of rows.
    """
    count = embeddings.shape[2]
    gradient, value = torch.zeros_like(embeddings), torch.zeros_like(weights)
    if count > 1:
        centred = torch.nn.functional.normalize(features - features.mean(dim=1, keepdim=True), dim=2)
        rows, columns = embeddings.transpose(1, 2).contiguous(), centred.transpose(1, 2)
        scale = (weights / (TEMPERATURE * count))[:, None, None]
        block = max(1, _BLOCK_BYTES // (4 * len(embeddings) * count))
        for start in range(0, count, block):
            span = slice(start, min(start + block, count))
            ours = _log_softmax(products(rows[:, span], embeddings), first=start)
            wanted = _log_softmax(products(centred[:, span].contiguous(), columns), first=start)
            shares = wanted.exp()
            value += (shares * (wanted - ours)).sum((1, 2))
            pulled = ours.exp_().sub_(shares).mul_(scale)
            gradient[:, :, span] += products(embeddings, pulled.transpose(1, 2))
            gradient += products(embeddings[:, :, span].contiguous(), pulled)
    return Kept(value * weights / count, gradient, (gradient * embeddings).sum(1, keepdim=True))


def _log_softmax(cosines: torch.Tensor, *, first: int) -> torch.Tensor:
    """Of rows (S, n, B) of a matrix, of which the first is row `first`, without its diagonal."""
    places = torch.arange(cosines.shape[1], device=cosines.device)
    logits = cosines / TEMPERATURE
    logits[:, places, first + places] = _APART
    return logits.log_softmax(2)
