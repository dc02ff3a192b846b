"""Which row of a cache is which of another, of the same images and captions in perhaps another order."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clipret.cache.texts import ImpliedTexts
from clipret.config import SPLITS
from clipret.errors import CacheMismatchError

if TYPE_CHECKING:
    from clipret.cache.reading import FeatureCache

_REMEDY = "caches side by side are of the same images and captions: extract both from the same data set"


def matched_rows(first: "FeatureCache", other: "FeatureCache") -> dict[str, np.ndarray]:
    """side -> (N,) the row of `other` of each row of `first`; without a side whose rows are in the same order.

    Images are the same by their files, or where those differ, such as COCO's of 2014 and 2017, by their ids; captions
    by their image and text. Captions of one image with the same text follow each other in both.

    Raises CacheMismatchError unless both have the same images, with the same bytes where those are known, the same
    captions of each and the same splits, and when both were imported with nothing but their rows' numbers.
    """
    if all(_are_numbers_alone(cache) for cache in (first, other)):
        raise CacheMismatchError(
            f"nothing tells which rows of {first.path} and {other.path} are of the same images and captions: both were "
            f"imported without paths, ids and captions; import them again with a --table that has some of these."
        )
    images = _matched_images(first, other)
    _require_same_images(first, other, images=images)
    texts = _matched_captions(first, other, images=images)
    return {side: rows for side, rows in (("image", images), ("text", texts)) if (np.diff(rows) != 1).any() or rows[0]}


def _matched_images(first: "FeatureCache", other: "FeatureCache") -> np.ndarray:
    by_file = all(_are_names(cache.image_files) for cache in (first, other))
    columns = ("image_files", "image_ids") if by_file else ("image_ids",)
    for name in columns:
        rows = _places(getattr(first, name), getattr(other, name))
        if rows is not None:
            return rows
    ours, theirs = getattr(first, columns[0]), set(getattr(other, columns[0]))
    missing = [name for name in ours if name not in theirs]
    which = f"{len(missing):,} of its {len(ours):,} are not in {other.path}, such as {missing[0]}" if missing else ""
    which = which or f"it has {len(ours):,}, {other.path} {len(theirs):,}"
    raise CacheMismatchError(f"{first.path} is of other images than {other.path}: {which}; {_REMEDY}.")


def _are_numbers_alone(cache: "FeatureCache") -> bool:
    return all(isinstance(texts, ImpliedTexts) for texts in (cache.image_ids, cache.image_files, cache.captions))


def _are_names(files: Sequence[str]) -> bool:
    """Whether each image has a file of its own; imported ones may have none, or be parts of one."""
    distinct = set(files)
    return len(distinct) == len(files) and "" not in distinct


def _places(ours: Sequence[str], theirs: Sequence[str]) -> np.ndarray | None:
    """(N,) where each of ours is among theirs; None unless they are the same texts, each of them once."""
    place = {text: row for row, text in enumerate(theirs)}
    if not len(ours) == len(theirs) == len(place):
        return None
    rows = [place.pop(text, None) for text in ours]
    return None if place else np.array(rows, dtype=np.int64)


def _require_same_images(first: "FeatureCache", other: "FeatureCache", *, images: np.ndarray) -> None:
    ours, theirs = first.image_digests, other.image_digests[images]
    rows = np.flatnonzero((ours != theirs).any(axis=1) & ours.any(axis=1) & theirs.any(axis=1))
    if len(rows):
        raise CacheMismatchError(
            f"{first.path} and {other.path} have files of the same name with other bytes: {len(rows):,} images, such "
            f"as {first.image_files[rows[0]]}; {_REMEDY}."
        )
    rows = np.flatnonzero(first.image_splits != other.image_splits[images])
    if len(rows):
        one, two = (SPLITS[splits[rows[0]]] for splits in (first.image_splits, other.image_splits[images]))
        raise CacheMismatchError(
            f"{len(rows):,} images of {first.path} are of another split in {other.path}, such as "
            f"{first.image_files[rows[0]] or first.image_ids[rows[0]]}, of {one} and of {two}; extract both with the "
            f"same splits."
        )


def _matched_captions(first: "FeatureCache", other: "FeatureCache", *, images: np.ndarray) -> np.ndarray:
    image_in_first = np.empty_like(images)
    image_in_first[images] = np.arange(len(images))
    rows_of: dict[tuple[int, str], list[int]] = {}
    for row, key in enumerate(zip(image_in_first[other.caption_images].tolist(), other.captions, strict=True)):
        rows_of.setdefault(key, []).append(row)
    rows, missing = [], []
    # The last first, so that those of one text are taken in their order.
    for key in reversed(list(zip(first.caption_images.tolist(), first.captions, strict=True))):
        of_text = rows_of.get(key)
        (rows if of_text else missing).append(of_text.pop() if of_text else key)
    if missing or len(first.captions) != len(other.captions):
        which = f"it has {len(first.captions):,}, {other.path} {len(other.captions):,}"
        if missing:
            image, text = missing[-1]
            name = first.image_files[image] or first.image_ids[image]
            which = (
                f"{len(missing):,} of its {len(first.captions):,} are not in {other.path}, such as '{text}' of {name}"
            )
        raise CacheMismatchError(f"{first.path} has other captions than {other.path}: {which}; {_REMEDY}.")
    return np.array(rows[::-1], dtype=np.int64)
