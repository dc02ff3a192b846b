"""A head on the rows of a gallery -> metrics of both directions: what training selects by and evaluation reports."""

from dataclasses import dataclass

import numpy as np

from clipret.cache import FeatureCache
from clipret.config import EvalConfig
from clipret.heads import LinearHead, embed
from clipret.metrics import summarise
from clipret.protocols import Fold
from clipret.retrieval import rank_both_directions


@dataclass(frozen=True)
class Gallery:
    """The features of a gallery's images (N, D_image) and captions (M, D_text), in memory.

    caption_images  (M,) the position of each caption's image
    """

    images: np.ndarray
    texts: np.ndarray
    caption_images: np.ndarray

    @classmethod
    def read(cls, cache: FeatureCache, fold: Fold) -> "Gallery":
        """Read the fold's rows; raises CacheError when a feature is not finite."""
        images, texts = cache.read("image", fold.image_rows), cache.read("text", fold.text_rows)
        return cls(images, texts, fold.caption_images)

    def measure(
        self, head: LinearHead, *, device: str, k: tuple[int, ...] = EvalConfig.k, block: int = EvalConfig.block
    ) -> dict[str, dict[str, float]]:
        """{"t2i": {"R@1": ...}, "i2t": {...}}, as metrics.summarise gives them.

        head    on the device
        block   queries scored at once
        """
        ranks = rank_both_directions(
            embed(head.embed_images, self.images, device=device),
            embed(head.embed_texts, self.texts, device=device),
            caption_images=self.caption_images,
            block=block,
        )
        return {direction: summarise(found, k=k) for direction, found in ranks.items()}
