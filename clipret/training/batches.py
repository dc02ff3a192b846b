"""The batches of an epoch: which images and captions each run of a stack sees, and which of them match.

Shape suffixes: S runs, B images of a batch, B_t captions of a batch.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from clipret.config import TrainConfig
from clipret.training.pairs import Pairs

# Batches of at most so many images keep the matrix of all pairs; larger ones compute it in blocks.
_LARGEST_KEPT = 4096


@dataclass(frozen=True)
class Batch:
    """Positions of the images (S, B) and captions (S, B_t) of one step.

    aligned  caption b belongs to image b, and no image occurs twice
    plain    aligned, and no two captions have the same text
    """

    pairs: Pairs
    images: torch.Tensor
    captions: torch.Tensor
    aligned: bool
    plain: bool

    @property
    def places(self) -> dict[str, torch.Tensor]:
        """The positions by side, as Features takes them."""
        return {"image": self.images, "text": self.captions}

    @cached_property
    def without_negatives(self) -> int:
        """The number of runs that have no negative pair in this batch."""
        if self.plain:
            return len(self.images) if self.images.shape[1] == 1 else 0
        if self.images.shape[1] > _LARGEST_KEPT:
            return 0
        mask = self.pairs.matching(self.images, self.captions, rows=slice(None), aligned=self.aligned)
        return int(mask.expand(len(self.images), -1, -1).flatten(1).all(1).sum())

    def matching(self, rows: slice, *, device: str) -> torch.Tensor:
        """(S or 1, rows, B) on the device, True where caption and image match. A kept matrix is float, 1 and 0."""
        count = self.images.shape[1]
        if self.plain and count <= _LARGEST_KEPT:
            kept = _diagonal(count, device)
            return kept if rows.indices(count) == (0, count, 1) else kept[:, rows]
        return self.pairs.matching(self.images, self.captions, rows=rows, aligned=self.aligned).to(device)


def steps_per_epoch(pairs: Pairs, config: TrainConfig) -> int:
    """Batches per epoch, each of at most batch_size images."""
    return -(-len(pairs) // config.batch_size)


def plan_epoch(
    pairs: Pairs, configs: list[TrainConfig], *, epoch: int, companions: list[dict[str, torch.Tensor]] | None = None
) -> list[Batch]:
    """The batches of an epoch for runs that differ in their seed.

    companions  for each run, its hard negatives as returned by mining.find_companions; None: no hard negatives

    Batches are of nearly equal size. A small remainder as the last batch, a single pair at worst, would pull matching
    pairs together with no negatives to push apart.
    """
    steps = steps_per_epoch(pairs, configs[0])
    drawn = {seed: pairs.draw(seed, epoch) for seed in {config.seed for config in configs}}
    order, captions = (torch.stack([drawn[config.seed][part] for config in configs]) for part in (0, 1))
    everything = configs[0].captions_per_step == "all"
    shared = pairs.text_groups >= 0
    repeated = bool(shared.any())
    batches = []
    for images, own in zip(order.tensor_split(steps, dim=1), captions.tensor_split(steps, dim=1), strict=True):
        texts = pairs.captions_of(images[0])[None] if everything else own
        if companions:
            images, texts = _accompanied(pairs, images, texts, companions=companions)
        aligned = not everything and not companions
        plain = aligned and not (repeated and bool(shared[texts].any()))
        batches.append(Batch(pairs, images, texts, aligned=aligned, plain=plain))
    return batches


def _accompanied(pairs: Pairs, images: torch.Tensor, texts: torch.Tensor, *, companions: list[dict]) -> tuple:
    """The batch with each item's hard negatives appended, each with a positive.

    A hard negative image brings one of its captions, a hard negative caption its image, so that every row and column of
    the matrix has a positive.
    """
    more_images, more_texts = [], []
    for run, companion in enumerate(companions):
        hard_images, hard_texts = companion["images"][images[run]].flatten(), companion["texts"][images[run]].flatten()
        more_images.append(torch.cat([images[run], hard_images, pairs.owners[hard_texts]]))
        more_texts.append(torch.cat([texts[run], companion["captions"][hard_images], hard_texts]))
    return torch.stack(more_images), torch.stack(more_texts)


@lru_cache(maxsize=8)
def _diagonal(count: int, device: str) -> torch.Tensor:
    return torch.eye(count, device=device)[None]
