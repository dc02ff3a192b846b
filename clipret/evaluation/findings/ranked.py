"""The heads of a run on the galleries of a protocol: ranks of all, embeddings of the first."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from torch import nn

from clipret.cache import FeatureCache
from clipret.evaluation.inputs import Ranking
from clipret.evaluation.queries import matching_items
from clipret.protocols.protocol import Fold, Protocol
from clipret.retrieval.gallery import Gallery, rank_folds
from clipret.retrieval.ranks import Ranks

# The best items of a query that are looked at.
TOP = 10


@dataclass(frozen=True)
class Ranked:
    """Ranks and embeddings.

    of_folds    name of head -> direction -> Ranks of each gallery; the baseline comes first
    embeddings  name of head -> image, text -> (N, E), (M, E) float32 of the first gallery
    """

    cache: FeatureCache
    fold: Fold
    of_folds: dict[str, dict[str, tuple[Ranks, ...]]]
    embeddings: dict[str, dict[str, np.ndarray]]

    @classmethod
    def of(
        cls,
        cache: FeatureCache,
        protocol: Protocol,
        *,
        heads: Mapping[str, nn.Module],
        device: str,
        ranking: Ranking | None = None,
    ) -> "Ranked":
        """Rank with all heads; ranking: what has done so, with the ten best items of each query."""
        ranks = ranking(protocol) if ranking else rank_folds(cache, protocol.folds, heads=heads, device=device, top=TOP)
        gallery = Gallery.read(cache, protocol.folds[0])
        embeddings = {}
        for name, head in heads.items():
            sides = gallery.embed(head.to(device), device=device)
            embeddings[name] = {side: values.cpu().numpy() for side, values in sides.items()}
        return cls(cache, protocol.folds[0], ranks, embeddings)

    @property
    def heads(self) -> list[str]:
        """Names; the baseline first, the trained one last."""
        return list(self.of_folds)

    def ranks(self, head: str, direction: str) -> Ranks:
        """Of the first gallery."""
        return self.of_folds[head][direction][0]

    def matching(self, direction: str, place: int) -> np.ndarray:
        """Positions in the gallery of what matches the query at a place, ascending."""
        row = self.ranks(self.heads[0], direction).asking[place]
        return matching_items(self.fold, row, direction=direction)

    @cached_property
    def captions_of(self) -> list[np.ndarray]:
        """For each image of the gallery, positions of its captions."""
        order = np.argsort(self.fold.caption_images, kind="stable")
        starts = np.searchsorted(self.fold.caption_images[order], np.arange(len(self.fold.image_rows) + 1))
        return [order[first:last] for first, last in pairwise(starts)]

    def image(self, position: int) -> dict:
        """row, file and caption, the first of the image's in the gallery or None."""
        row, captions = int(self.fold.image_rows[position]), self.captions_of[position]
        caption = self.cache.captions[self.fold.text_rows[captions[0]]] if len(captions) else None
        return {"row": row, "file": self.cache.image_files[row], "caption": caption}

    def caption(self, position: int) -> dict:
        """row, the caption, and row and file of its image."""
        row = int(self.fold.text_rows[position])
        image = int(self.cache.caption_images[row])
        return {"row": row, "caption": self.cache.captions[row], "image": image, "file": self.cache.image_files[image]}

    def scores(self, head: str, direction: str, place: int, positions: np.ndarray) -> np.ndarray:
        """Cosines of the query at a place with gallery items."""
        asking, items = ("text", "image") if direction == "t2i" else ("image", "text")
        row = self.ranks(head, direction).asking[place]
        return self.embeddings[head][items][positions] @ self.embeddings[head][asking][row]
