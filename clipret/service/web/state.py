"""What a service has in memory for all of its requests."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from clipret.config import SPLITS, ServeConfig
from clipret.errors import DatasetError
from clipret.service.describing import Descriptions
from clipret.service.marks import Marks
from clipret.service.searching import Searcher
from clipret.service.terms import Query, Term
from clipret.service.web.limits import RefusalError
from clipret.service.web.pictures import Thumbnails, require_picture


class State:
    """The searcher with what it shows.

    threads  that torch used where the service was opened
    """

    def __init__(self, searcher: Searcher, config: ServeConfig):
        """Raises UsageError when the marks cannot be read."""
        self.searcher, self.originals, self.threads = searcher, config.originals, torch.get_num_threads()
        self.descriptions = Descriptions(searcher.cache, root=config.root)
        self.thumbnails = Thumbnails(searcher.cache, root=self.descriptions.root)
        self.marks = Marks(config.marks, searcher.cache)

    @cached_property
    def split_sizes(self) -> dict[str, int]:
        """Images of each split that are searched."""
        kept = next(iter(self.searcher.heads.values())).kept["image"]
        counts = np.bincount(self.searcher.cache.image_splits[kept.rows], minlength=len(SPLITS))
        return {name: int(count) for name, count in zip(SPLITS, counts, strict=True) if count}

    @cached_property
    def _captions(self) -> dict[str, np.ndarray]:
        cache = self.searcher.cache
        kept = next(iter(self.searcher.heads.values())).kept["text"]
        codes = cache.image_splits[cache.caption_images[kept.rows]]
        return {name: kept.rows[codes == code] for code, name in enumerate(SPLITS)} | {"all": kept.rows}

    def caption_rows(self, split: str) -> np.ndarray:
        """Rows of the captions of a split that are searched."""
        return self._captions[split]

    def pixels(self, content: bytes) -> np.ndarray:
        """(S, S, 3) uint8 of a client's picture, as the encoder sees it. Raises RefusalError."""
        require_picture(content)
        # Heads with blocks of their own have the same preprocessing.
        encoder = next(iter(self.searcher.heads.values())).model.encoder
        try:
            return encoder.pixels(content, place=0)
        except DatasetError:
            raise RefusalError(400, "the picture cannot be decoded") from None

    @staticmethod
    def text_queries(texts: Sequence[str]) -> tuple[Query, ...]:
        """A query for each caption, as it stands."""
        return tuple((Term(words=text),) for text in texts)

    @staticmethod
    def picture_query(pixels: np.ndarray) -> Query:
        """The query of a picture."""
        return (Term(image=pixels),)
