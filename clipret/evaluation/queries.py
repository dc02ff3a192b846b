"""Descriptions of single queries of a protocol, with their ranks under several heads.

Shape suffixes: Q queries of all folds.
"""

from functools import cached_property

import numpy as np

from clipret.cache import FeatureCache
from clipret.protocols.protocol import Fold
from clipret.retrieval.ranks import Ranks

# The most matching items, and wrong items before them, that are listed per query.
_NAMED = 3


class Queries:
    """The queries of one direction, concatenated over all folds.

    ranks  name of head -> Ranks of each fold, with the best items
    """

    def __init__(
        self, cache: FeatureCache, folds: tuple[Fold, ...], *, direction: str, ranks: dict[str, tuple[Ranks, ...]]
    ):
        self.cache, self.folds, self.direction, self.ranks = cache, folds, direction, ranks
        # The trained head, or the baseline if there is no other.
        self.shown = list(ranks)[-1]
        self._starts = np.cumsum([0, *(of_fold.queries for of_fold in ranks[self.shown])])

    @cached_property
    def first(self) -> dict[str, np.ndarray]:
        """Head -> (Q,) rank of each query's first matching item."""
        return {head: np.concatenate([of_fold.first for of_fold in folds]) for head, folds in self.ranks.items()}

    @cached_property
    def positives(self) -> np.ndarray:
        """(Q,) number of matching items."""
        return np.concatenate([of_fold.positives for of_fold in self.ranks[self.shown]])

    @cached_property
    def lengths(self) -> np.ndarray:
        """(Q,) words of the query caption, or mean words of the query image's captions; NaN without captions."""
        lengths = []
        for fold, ranks in zip(self.folds, self.ranks[self.shown], strict=True):
            words = np.array([len(self.cache.captions[row].split()) for row in fold.text_rows], dtype=np.float64)
            if self.direction == "i2t":
                images = len(fold.image_rows)
                counts = np.bincount(fold.caption_images, minlength=images)
                sums = np.bincount(fold.caption_images, weights=words, minlength=images)
                words = np.where(counts > 0, sums / np.maximum(1, counts), np.nan)
            lengths.append(words[ranks.asking])
        return np.concatenate(lengths)

    def describe(self, query: int) -> dict:
        """One query: id, file, caption and, in t2i, image; fold; ranks (head -> rank of its first matching item);
        matching (number of matching items), expected (the first three of them) and retrieved.

        retrieved  the best three of the items that the shown head ranks before all matching ones; none at rank 1
        """
        number = int(np.searchsorted(self._starts, query, side="right")) - 1
        fold, ranks, place = self.folds[number], self.ranks[self.shown][number], query - self._starts[number]
        row, best = ranks.asking[place], ranks.top[place]
        matching = matching_items(fold, row, direction=self.direction)
        wrong = best[~np.isin(best, matching)][: min(_NAMED, ranks.first[place] - 1)]
        asked = _name_caption if self.direction == "t2i" else _name_image
        return {
            **asked(self.cache, fold, row),
            "fold": number,
            "ranks": {head: int(first[query]) for head, first in self.first.items()},
            "matching": len(matching),
            "expected": [self.name_item(number, item) for item in matching[:_NAMED]],
            "retrieved": [self.name_item(number, item) for item in wrong],
        }

    def name_item(self, number: int, position: int) -> dict:
        """The description of an item of a fold's gallery."""
        named = _name_image if self.direction == "t2i" else _name_caption
        return named(self.cache, self.folds[number], position)


def matching_items(fold: Fold, row: int, *, direction: str) -> np.ndarray:
    """Positions of the items that match the query at position `row`, ascending."""
    if fold.matches:
        asking, items = fold.matches[direction]
        return np.sort(items[asking == row])
    return fold.caption_images[[row]] if direction == "t2i" else np.flatnonzero(fold.caption_images == row)


def _name_image(cache: FeatureCache, fold: Fold, position: int) -> dict:
    row, captions = fold.image_rows[position], fold.text_rows[fold.caption_images == position]
    caption = cache.captions[captions[0]] if len(captions) else None
    return {"id": cache.image_ids[row], "file": cache.image_files[row], "caption": caption}


def _name_caption(cache: FeatureCache, fold: Fold, position: int) -> dict:
    row, image = fold.text_rows[position], fold.image_rows[fold.caption_images[position]]
    return {
        "id": cache.caption_ids[row],
        "caption": cache.captions[row],
        "image": cache.image_ids[image],
        "file": cache.image_files[image],
    }
