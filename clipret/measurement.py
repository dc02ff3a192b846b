"""A head on the rows of a gallery -> metrics of both directions: what training selects by and evaluation reports."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from clipret.cache import FeatureCache
from clipret.config import EvalConfig
from clipret.metrics import summarise
from clipret.protocols import Fold
from clipret.retrieval import rank_both_directions

# Features of a small gallery are kept as float32 where they are measured; those of a larger one are brought there, and
# widened, a block at a time.
_HELD_BYTES = 256 << 20


@torch.no_grad()
def embed(
    function: Callable[[torch.Tensor], torch.Tensor],
    features: np.ndarray | torch.Tensor,
    *,
    device: str | torch.device,
    block: int = 65_536,
) -> torch.Tensor:
    """Embeddings of all rows, a block at a time so that a memory-mapped cache is never read whole.

    function  a head's embed_images or embed_texts
    features  (B, D)
    device    where the head lives and the embeddings are left

    Returns (B, E) float32 on the device.
    """
    if isinstance(features, torch.Tensor) and len(features) <= block:
        return function(features.to(device))
    starts = range(0, len(features), block)
    # Read in turn, and copied: a slice of a mapped file cannot be made a tensor that may be written to.
    blocks = (torch.from_numpy(np.array(features[start : start + block])).to(device) for start in starts)
    return torch.cat([function(rows) for rows in blocks])


@dataclass(frozen=True)
class Gallery:
    """The features of a gallery's images (N, D_image) and captions (M, D_text), in memory.

    caption_images  (M,) the position of each caption's image
    """

    images: np.ndarray
    texts: np.ndarray
    caption_images: np.ndarray
    _held: dict = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def read(cls, cache: FeatureCache, fold: Fold) -> "Gallery":
        """Read the fold's rows; raises CacheError when a feature is not finite."""
        images, texts = cache.read("image", fold.image_rows), cache.read("text", fold.text_rows)
        return cls(images, texts, fold.caption_images)

    def measure(
        self, head: nn.Module, *, device: str, k: tuple[int, ...] = EvalConfig.k, block: int = EvalConfig.block
    ) -> dict[str, dict[str, float]]:
        """{"t2i": {"R@1": ...}, "i2t": {...}}, as metrics.summarise gives them.

        head    on the device
        block   queries scored at once
        """
        images, texts = self._features(device)
        ranks = rank_both_directions(
            embed(head.embed_images, images, device=device),
            embed(head.embed_texts, texts, device=device),
            caption_images=self.caption_images,
            block=block,
        )
        return {direction: summarise(found, k=k) for direction, found in ranks.items()}

    def _features(self, device: str) -> tuple:
        if 4 * (self.images.size + self.texts.size) > _HELD_BYTES:
            return self.images, self.texts
        if device not in self._held:
            # Of one device only, so that the bound holds for all of them together.
            self._held.clear()
            self._held[device] = tuple(
                torch.from_numpy(np.asarray(side, dtype=np.float32)).to(device) for side in (self.images, self.texts)
            )
        return self._held[device]
