"""Rows of a cache -> what people see of them: id, file, captions, split."""

from functools import cached_property
from pathlib import Path

import numpy as np

from clipret.cache import FeatureCache
from clipret.config import SPLITS
from clipret.service.searching import Hits


class Descriptions:
    """What is known of images and captions of a cache."""

    def __init__(self, cache: FeatureCache, *, root: Path | None = None):
        """root: folder of the images, in the place of where they were."""
        self.cache = cache
        self.root = Path(root or cache.about["root"])

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(self.cache.caption_images, kind="stable")
        return order, np.searchsorted(self.cache.caption_images[order], np.arange(len(self.cache.image_states) + 1))

    def captions_of(self, image: int) -> list[int]:
        """Rows of the captions of an image, ascending."""
        order, starts = self._order
        return order[starts[image] : starts[image + 1]].tolist()

    def image(self, row: int) -> dict:
        """row, id, file, split and caption, the first of the image's or None."""
        captions = self.captions_of(row)
        return {
            "row": row,
            "id": self.cache.image_ids[row],
            "file": self.cache.image_files[row],
            "split": SPLITS[self.cache.image_splits[row]],
            "caption": self.cache.captions[captions[0]] if captions else None,
        }

    def caption(self, row: int) -> dict:
        """row, id, caption, split; image (its row), image_id and file."""
        image = int(self.cache.caption_images[row])
        return {
            "row": row,
            "id": self.cache.caption_ids[row],
            "caption": self.cache.captions[row],
            "split": SPLITS[self.cache.image_splits[image]],
            "image": image,
            "image_id": self.cache.image_ids[image],
            "file": self.cache.image_files[image],
        }

    def hits(self, hits: Hits, *, side: str, offset: int = 0) -> list[dict]:
        """rank and score with each hit from the offset on."""
        describe = self.image if side == "image" else self.caption
        pairs = zip(hits.rows[offset:].tolist(), hits.scores[offset:].tolist(), strict=True)
        return [
            {"rank": rank, "score": score, **describe(row)} for rank, (row, score) in enumerate(pairs, start=offset + 1)
        ]
