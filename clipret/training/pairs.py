"""The training images and captions: which of them match, and the order of an epoch. All by index arithmetic.

Shape suffixes: S runs, B images and B_t captions of a batch, N training images with a caption, M their captions.
"""

from dataclasses import dataclass

import numpy as np
import torch

from clipret.cache import FeatureCache
from clipret.protocols.protocol import Fold


@dataclass(frozen=True)
class Pairs:
    """The training images that have a caption, at positions 0..N-1, and their captions grouped by image, 0..M-1.

    image_rows    (N,) and text_rows (M,): rows of the cache
    first         (N,) int64 position of each image's first caption
    counts        (N,) int64 number of captions of each image
    owners        (M,) int64 position of each caption's image
    text_groups   (M,) int64: a number shared by the captions with the same text on several images; -1: no other image
                  has the text
    image_groups  (N, C) int64: those numbers among an image's captions, then -1; C may be 0
    texts         the number of distinct texts
    """

    image_rows: np.ndarray
    text_rows: np.ndarray
    first: torch.Tensor
    counts: torch.Tensor
    owners: torch.Tensor
    text_groups: torch.Tensor
    image_groups: torch.Tensor
    texts: int

    @classmethod
    def of(cls, cache: FeatureCache, fold: Fold) -> "Pairs":
        """The pairs of a fold. Texts are compared as CLIP reads them: without regard to case and spaces."""
        order = np.argsort(fold.caption_images, kind="stable")
        captioned, counts = np.unique(fold.caption_images, return_counts=True)
        owners, text_rows = np.repeat(np.arange(len(counts)), counts), fold.text_rows[order]
        _, texts = np.unique(cache.text_digests(text_rows), return_inverse=True)
        groups = _shared(texts, owners)
        return cls(
            image_rows=fold.image_rows[captioned],
            text_rows=text_rows,
            first=torch.from_numpy(np.cumsum(counts) - counts),
            counts=torch.from_numpy(counts),
            owners=torch.from_numpy(owners),
            text_groups=torch.from_numpy(groups),
            image_groups=torch.from_numpy(_by_image(groups, owners, images=len(counts))),
            texts=int(texts.max(initial=-1)) + 1,
        )

    def __len__(self) -> int:
        return len(self.counts)

    def draw(self, seed: int, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Order (N,) of the images in that epoch, and (N,) in that order a caption of each, drawn uniformly.

        They depend on seed and epoch only, so that a resumed training draws the same as an uninterrupted one.
        """
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))
        )
        order = torch.randperm(len(self), generator=generator)
        within = (torch.rand(len(self), generator=generator, dtype=torch.float64) * self.counts).long()
        return order, (self.first + within)[order]

    def captions_of(self, images: torch.Tensor) -> torch.Tensor:
        """(B_t,) all captions of the images (B,), image by image."""
        counts = self.counts[images]
        starts = counts.cumsum(0) - counts
        return torch.arange(int(counts.sum())) + (self.first[images] - starts).repeat_interleave(counts)

    def matching(self, images: torch.Tensor, captions: torch.Tensor, *, rows: slice, aligned: bool) -> torch.Tensor:
        """(S or 1, rows, B) bool: whether the image has a caption with the text of the caption.

        images (S, B) and captions (S, B_t) are positions; aligned as in Batch; rows selects captions of each run.
        """
        asked = captions[:, rows]
        if aligned:
            mask = torch.zeros(1, asked.shape[1], images.shape[1], dtype=torch.bool)
            mask[0].diagonal(rows.indices(captions.shape[1])[0]).fill_(True)
        else:
            # Numbers of half the size are compared in half the time.
            mask = self.owners[asked].int()[:, :, None] == images.int()[:, None, :]
        groups = self.text_groups[asked]
        runs, places = (groups >= 0).nonzero(as_tuple=True)
        if len(runs) == 0:
            return mask
        mask = mask.expand(len(images), -1, -1).clone()
        wanted, matches = groups[runs, places][:, None], mask[runs, places]
        for column in self.image_groups.T:
            matches |= column[images[runs]] == wanted
        mask[runs, places] = matches
        return mask


def _shared(texts: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """(M,) the number of each caption's text if several images have it, else -1."""
    owning = np.unique(np.stack([texts, owners]), axis=1)[0]
    several = np.bincount(owning, minlength=texts.max(initial=-1) + 1) > 1
    return np.where(several[texts], texts, -1)


def _by_image(groups: np.ndarray, owners: np.ndarray, *, images: int) -> np.ndarray:
    shared = np.flatnonzero(groups >= 0)
    owners, groups = np.unique(np.stack([owners[shared], groups[shared]]), axis=1)
    counts = np.bincount(owners, minlength=images)
    slots = np.arange(len(owners)) - (np.cumsum(counts) - counts)[owners]
    by_image = np.full((images, counts.max(initial=0)), -1)
    by_image[owners, slots] = groups
    return by_image
