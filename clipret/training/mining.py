"""Mining of hard negatives in the whole training set, with the head at the start of an epoch.

Shape suffixes: N training images, M captions, K hard negatives.
"""

import torch
from torch import nn

from clipret.training.features import Features
from clipret.training.pairs import Pairs

_ROWS = 16_384
_BLOCK_BYTES = 128 << 20


@torch.no_grad()
def find_companions(
    head: nn.Module, features: Features, pairs: Pairs, *, count: int, drawn: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The K hardest negatives of every image and of its caption in this epoch, among all training captions and images.

    count  K
    drawn  order (N,) of the images in the epoch and their captions (N,) in that order, as returned by Pairs.draw

    Returns, by image position: images (N, K), the images nearest to the drawn caption that have no caption with its
    text; texts (N, K), the captions nearest to the image whose text none of its captions has; captions (N,), the drawn
    captions. With fewer than K negatives, the rest are positives.

    Costs two products of N x M, in blocks; memory for the embeddings and one block.
    """
    images = torch.cat([head.embed_images(block) for block in features.blocks("image", block=_ROWS)])
    texts = torch.cat([head.embed_texts(block) for block in features.blocks("text", block=_ROWS)])
    captions = torch.empty(len(pairs), dtype=torch.int64)
    captions[drawn[0]] = drawn[1]
    everything = torch.arange(len(pairs))
    nearest_images = _nearest(
        texts, images, asking=captions, count=count, matches=lambda rows: _matching_images(pairs, captions[rows])
    )
    nearest_texts = _nearest(
        images, texts, asking=everything, count=count, matches=lambda rows: _matching_captions(pairs, rows)
    )
    return {"images": nearest_images, "texts": nearest_texts, "captions": captions}


def _nearest(
    queries: torch.Tensor, gallery: torch.Tensor, *, asking: torch.Tensor, count: int, matches
) -> torch.Tensor:
    """(N, K) positions in the gallery of the nearest items to queries[asking] that do not match.

    matches(rows of asking) -> (rows, items) of the pairs that match
    """
    block = max(1, _BLOCK_BYTES // (4 * len(gallery)))
    nearest = []
    for rows in torch.arange(len(asking)).split(block):
        scores = queries[asking[rows].to(queries.device)] @ gallery.T
        matching = matches(rows)
        scores[matching[0].to(scores.device), matching[1].to(scores.device)] = -torch.inf
        nearest.append(scores.topk(min(count, len(gallery)), dim=1).indices.cpu())
    return torch.cat(nearest)


def _matching_images(pairs: Pairs, captions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, images) of the pairs of these captions with images that have a caption with the same text."""
    rows = torch.arange(len(captions))
    groups = pairs.text_groups[captions]
    shared = (groups >= 0).nonzero().squeeze(1)
    matched = [torch.stack([rows, pairs.owners[captions]])]
    for column in pairs.image_groups.T:
        holders, order = column.sort()
        matched.append(_joined(groups[shared], holders, shared, order))
    return tuple(torch.cat(matched, dim=1))


def _matching_captions(pairs: Pairs, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, captions) of the pairs of these images with captions whose text one of the image's captions has."""
    counts = pairs.counts[images]
    matched = [torch.stack([torch.arange(len(images)).repeat_interleave(counts), pairs.captions_of(images)])]
    sorted_groups, order = pairs.text_groups.sort()
    for column in pairs.image_groups.T:
        groups = column[images]
        shared = (groups >= 0).nonzero().squeeze(1)
        matched.append(_joined(groups[shared], sorted_groups, shared, order))
    return tuple(torch.cat(matched, dim=1))


def _joined(keys: torch.Tensor, sorted_keys: torch.Tensor, rows: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """(2, pairs): each row with all positions at which `sorted_keys` has the row's key, mapped by `order`."""
    first, last = torch.searchsorted(sorted_keys, keys), torch.searchsorted(sorted_keys, keys, right=True)
    counts = last - first
    starts = counts.cumsum(0) - counts
    within = torch.arange(int(counts.sum())) + (first - starts).repeat_interleave(counts)
    return torch.stack([rows.repeat_interleave(counts), order[within]])
