"""Queries -> the best images or captions of a gallery, through one head or several.

Shape suffixes: Q queries, E embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from clipret.cache import FeatureCache
from clipret.config import SPLITS
from clipret.config.choices import ALL_SPLITS
from clipret.errors import UsageError
from clipret.exports.encoder import CacheEncoder
from clipret.exports.head import LoadedHead
from clipret.exports.model import EmbeddingModel
from clipret.retrieval.inputs import read_rows
from clipret.retrieval.nearest import nearest, place_of
from clipret.service.kept import Kept
from clipret.service.terms import Query, Term

# Below this a sum of terms has no direction.
_SMALLEST_NORM = 1e-6


@dataclass(frozen=True)
class SearchHead:
    """A head with the embeddings of a gallery through it.

    name     as results call it
    model    encoder and head
    trained  the head as it was trained, for what the cache has of a row
    kept     image, text -> its embeddings
    """

    name: str
    model: EmbeddingModel
    trained: LoadedHead
    kept: dict[str, Kept]


@dataclass(frozen=True)
class Hits:
    """The best of one query.

    rows    of the cache, best first
    scores  cosines in float64
    """

    rows: np.ndarray
    scores: np.ndarray

    def first(self, count: int, *, least: float | None = None) -> "Hits":
        """The first of them, without those below a score."""
        kept = slice(0, count if least is None else min(count, int(np.sum(self.scores >= least))))
        return Hits(self.rows[kept], self.scores[kept])


class Searcher:
    """A cache with its heads. Safe to use from one thread at a time, as torch's threads are shared."""

    def __init__(self, cache: FeatureCache, heads: Sequence[SearchHead], *, split: str = ALL_SPLITS):
        """split: of the gallery."""
        self.cache, self.split = cache, split
        self.heads = {head.name: head for head in heads}

    def embed(self, queries: Sequence[Query], head: str) -> np.ndarray:
        """(Q, E) float32 of norm 1. All words of all queries are encoded together.

        Raises DatasetError for a picture that cannot be read, and UsageError for a sum without a direction.
        """
        return self.embed_by([head], queries)[head]

    def embed_by(self, heads: Sequence[str], queries: Sequence[Query]) -> dict[str, np.ndarray]:
        """Name of head -> as `embed`; heads of one encoder share what it computes."""
        terms = [term for query in queries for term in query]
        texts = list(dict.fromkeys(term.words for term in terms if term.words is not None))
        pictures = [term for term in terms if term.image is not None]
        computed: dict[int, dict[str, torch.Tensor]] = {}
        embedded = {}
        for name in heads:
            head = self.heads[name]
            features = {}
            if texts or pictures:
                encoder = head.model.encoder
                if id(encoder) not in computed:
                    computed[id(encoder)] = _features(encoder, texts, pictures)
                features = computed[id(encoder)]
            parts = {}
            if texts:
                parts |= zip(texts, head.model.head.embed_texts(features["text"]).cpu().numpy(), strict=True)
            if pictures:
                values = head.model.head.embed_images(features["image"]).cpu().numpy()
                parts |= zip(map(id, pictures), values, strict=True)
            embedded[name] = np.stack([self._sum(query, parts, head) for query in queries])
        return embedded

    def _sum(self, query: Query, parts: dict, head: SearchHead) -> np.ndarray:
        if len(query) == 1 and query[0].weight == 1:
            return self._part(query[0], parts, head)
        total = sum(term.weight * self._part(term, parts, head).astype(np.float64) for term in query)
        norm = np.linalg.norm(total)
        if norm < _SMALLEST_NORM:
            raise UsageError("the terms of the query cancel each other out; expected a sum that is not zero.")
        return (total / norm).astype(np.float32)

    def _part(self, term: Term, parts: dict, head: SearchHead) -> np.ndarray:
        if term.words is not None:
            return parts[term.words]
        return parts[id(term)] if term.image is not None else self.embedding(head.name, *term.row)

    def embedding(self, head: str, side: str, row: int) -> np.ndarray:
        """(E,) float32 of a row of the cache, kept or computed of what the cache has of it. Raises UsageError."""
        of_head = self.heads[head]
        kept = of_head.kept[side]
        place = int(np.searchsorted(kept.rows, row))
        if place < len(kept.rows) and kept.rows[place] == row:
            return kept.values[place].astype(np.float32)
        if not 0 <= row < len(self.cache.checksums[side]) or row not in self.usable[side]:
            raise UsageError(f"there is no {side} row {row} with a feature.")
        function = of_head.trained.embed_images if side == "image" else of_head.trained.embed_texts
        rows = read_rows(self.cache, side, np.array([row]), kind=of_head.trained.head.inputs[side])
        return np.asarray(function(rows))[0]

    @cached_property
    def usable(self) -> dict[str, set[int]]:
        """image, text -> rows that have a feature."""
        return {side: set(self.cache.rows(side).tolist()) for side in ("image", "text")}

    @cached_property
    def _images(self) -> dict[str, np.ndarray]:
        """Side -> the row of the image of each row of the cache."""
        return {"image": np.arange(len(self.cache.image_states)), "text": self.cache.caption_images}

    def places(self, head: str, side: str, split: str) -> np.ndarray | None:
        """Places of a split in the gallery; None: all of it. Raises UsageError for a split that it does not have."""
        if split in (ALL_SPLITS, self.split):
            return None
        if split not in SPLITS or self.split != ALL_SPLITS:
            raise UsageError(f"split is '{split}'; this gallery is of {self.split}.")
        return self._of_splits(head, side)[split]

    def _of_splits(self, head: str, side: str) -> dict[str, np.ndarray]:
        key = (head, side)
        if key not in self._by_split:
            codes = self.cache.image_splits[self._images[side][self.heads[head].kept[side].rows]]
            self._by_split[key] = {name: np.flatnonzero(codes == code) for code, name in enumerate(SPLITS)}
        return self._by_split[key]

    @cached_property
    def _by_split(self) -> dict[tuple[str, str], dict[str, np.ndarray]]:
        return {}

    def search(self, queries: np.ndarray, *, head: str, side: str, k: int, split: str = ALL_SPLITS) -> list[Hits]:
        """The k best of each query (Q, E), images or captions.

        side  image or text, of what is looked for

        Raises ExportError when the kept embeddings are damaged.
        """
        kept = self.heads[head].kept[side]
        scores, places = nearest(queries, kept.values, k=k, rows=self.places(head, side, split))
        if places.size:
            kept.require_whole(np.unique(places))
        return [Hits(kept.rows[at], of) for of, at in zip(scores, places, strict=True)]

    def gallery_size(self, head: str, side: str, split: str = ALL_SPLITS) -> int:
        """How many images or captions are searched."""
        places = self.places(head, side, split)
        return len(self.heads[head].kept[side].rows if places is None else places)

    def rank(self, query: np.ndarray, *, head: str, side: str, row: int, split: str = ALL_SPLITS) -> int | None:
        """The rank of one row for a query (E,); None: it is not searched."""
        kept, places = self.heads[head].kept[side], self.places(head, side, split)
        place = int(np.searchsorted(kept.rows, row))
        there = place < len(kept.rows) and kept.rows[place] == row and (places is None or place in places)
        return place_of(query, kept.values, item=place, rows=places) if there else None


def _features(encoder: CacheEncoder, texts: list[str], pictures: list[Term]) -> dict[str, torch.Tensor]:
    """text, image -> features as the cache would have them, of those that there are."""
    features = {}
    if texts:
        features["text"] = encoder.text_features(texts)
    if pictures:
        pixels = [_pixels(encoder, term.image, place) for place, term in enumerate(pictures)]
        features["image"] = encoder.pixel_features(pixels)
    return {side: encoder.stored(values.float()) for side, values in features.items()}


def _pixels(encoder: CacheEncoder, image: object, place: int) -> np.ndarray:
    """Pixels of S x S are taken as they are: the service reads pictures with its own limits."""
    side = encoder.backbone.image_side
    if isinstance(image, np.ndarray) and image.shape == (side, side, 3):
        return image
    return encoder.pixels(image, place=place)
