"""Which rows of a cache are embedded, in which order, with their texts.

The order is the cache's: images by row, then captions by row. Left out are images that could not be read, and their
captions, as eval leaves them out.
"""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from clipret.cache import DONE, SIDES, FeatureCache
from clipret.cache.columns import TextColumns
from clipret.config import SPLITS
from clipret.config.choices import ALL_SPLITS
from clipret.errors import UsageError

# Small beside what torch itself takes. Larger ones take more memory; `make bench-embed` has shown them faster.
BLOCK = 1024


@dataclass(frozen=True)
class Span:
    """Consecutive embeddings of one side: the unit of work.

    side   image or text
    start  the first of them, among those of its side
    rows   of the cache
    """

    side: str
    start: int
    rows: np.ndarray


class Selection:
    """The rows of a split.

    rows      image, text -> rows of the cache, ascending
    left_out  rows of the split that have no feature, or whose image has none
    """

    def __init__(self, cache: FeatureCache, *, split: str):
        """Raises UsageError when there are none, or captions without images are to be selected by split."""
        self._cache = cache
        images = cache.image_states == DONE
        texts = cache.text_states == DONE
        in_split = {"image": np.ones(len(images), bool), "text": np.ones(len(texts), bool)}
        if split != ALL_SPLITS:
            if not len(images):
                raise UsageError(
                    f"--split is '{split}', but {cache.path} has no images, and a caption's split is that of its "
                    f"image; leave --split out to embed all captions."
                )
            in_split["image"] = cache.image_splits == SPLITS.index(split)
            in_split["text"] = in_split["image"][cache.caption_images]
        if len(images):
            texts = texts & images[cache.caption_images]
        selected = {"image": images & in_split["image"], "text": texts & in_split["text"]}
        self.rows = {side: np.flatnonzero(selected[side]) for side in SIDES}
        self.left_out = {side: int(in_split[side].sum()) - len(self.rows[side]) for side in SIDES}
        if not any(map(len, self.rows.values())):
            raise UsageError(f"{cache.path} has no images or captions of split {split}; give another --split.")

    @property
    def sides(self) -> tuple[str, ...]:
        """Those that the cache has."""
        return tuple(side for side in SIDES if len(self._cache.checksums[side]))

    def spans(self, *, block: int = BLOCK) -> list[Span]:
        """All of it, in order; never changed by what was written already."""
        return [
            Span(side, start, self.rows[side][start : start + block])
            for side in self.sides
            for start in range(0, len(self.rows[side]), block)
        ]


def text_blocks(cache: FeatureCache, spans: list[Span]) -> Iterator[dict[str, list[str]]]:
    """Of every span the columns id, image, file, caption (none of images) and split, read from the disk as they come.

    image and file of a caption are those of its image; split is empty where there is none. The next ones are read
    while these are used.
    """
    blocks = _read_texts(cache, spans)
    with contextlib.closing(blocks), ThreadPoolExecutor(1, thread_name_prefix="clipret-texts") as pool:
        waiting = pool.submit(next, blocks, None)
        while (texts := waiting.result()) is not None:
            waiting = pool.submit(next, blocks, None)
            yield texts


def _read_texts(cache: FeatureCache, spans: list[Span]) -> Iterator[dict[str, list[str]]]:
    names = ("image/id", "image/file", "text/id", "text/caption")
    with TextColumns(cache, names) as columns:
        has_images = bool(len(cache.image_states))
        for span in spans:
            images = span.rows if span.side == "image" else cache.caption_images[span.rows]
            texts = {"id": columns.read(f"{span.side}/id", span.rows)}
            if has_images:
                texts["image"] = texts["id"] if span.side == "image" else columns.read("image/id", images)
                texts["file"] = columns.read("image/file", images)
                texts["split"] = [SPLITS[code] for code in cache.image_splits[images].tolist()]
            else:
                texts |= {name: [""] * len(span.rows) for name in ("image", "file", "split")}
            if span.side == "text":
                texts["caption"] = columns.read("text/caption", span.rows)
            yield texts
