"""Banks of reference queries, and what scorings know of a gallery from them.

Shape suffixes: G gallery items, Q queries, B rows of a bank, E embedding width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from clipret.cache import FeatureCache
from clipret.cache.image_keys import usable_rows
from clipret.errors import UsageError
from clipret.machine.products import Products
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.protocols.leakage import split_without
from clipret.retrieval.engine import rounded
from clipret.retrieval.gallery import Gallery, StoredRows, embed, require_unit
from clipret.retrieval.scorings.scoring import Statistics
from clipret.retrieval.ties import TIE_TOLERANCE

_ROWS = 16_384
# Of one product of a gallery and a part of a bank: 64 MiB.
_SCORES_AT_ONCE = 1 << 24
# Progress is shown for products of more scores than this.
_LONG = 1 << 28


@dataclass(frozen=True)
class Bank:
    """Reference queries of both directions: the images and captions of a split that are not measured.

    rows  image, text -> (B,) rows of the cache
    """

    cache: FeatureCache
    rows: dict[str, np.ndarray]

    def embedded(self, head: nn.Module, side: str, *, device: str, precision: str) -> Iterator[torch.Tensor]:
        """The head's embeddings of one side, image or text, (rows, E) some rows at a time, rounded as engine.rank does.

        Raises CacheError when a feature is not finite, HeadError as require_unit does.
        """
        rows, function = self.rows[side], head.embed_images if side == "image" else head.embed_texts
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            features = StoredRows(self.cache, side, rows=some, kind=head.inputs[side])
            embeddings = embed(function, features, device=device)
            require_unit(head, side, embeddings, features=features, rows=some)
            yield rounded(embeddings, precision)

    def survey(
        self,
        head: nn.Module,
        side: str,
        *,
        gallery: torch.Tensor,
        statistics: Statistics,
        precision: str,
        on_progress: ProgressCallback = silent,
    ) -> Statistics:
        """The statistics with all cosines of a gallery with one side, image or text, of the bank.

        gallery      (G, E) embeddings of the other side, rounded as the bank's
        on_progress  called with phase "bank", counting rows of the bank, while that takes long

        Raises as embedded does.
        """
        products, done, rows = Products(gallery.device.type), 0, len(self.rows[side])
        for block in self.embedded(head, side, device=gallery.device, precision=precision):
            for some in block.split(max(1, _SCORES_AT_ONCE // len(gallery))):
                statistics.add(products(gallery[None], some.T[None])[0])
                done += len(some)
                if rows * len(gallery) > _LONG:
                    on_progress(Progress("bank", done, rows))
        return statistics


def leads(queries: torch.Tensor, gallery: torch.Tensor, *, members: torch.Tensor) -> np.ndarray:
    """(Q,) bool: whether the best item of a query, or one that ties with it, is one of the members.

    queries, gallery  (Q, E) and (G, E) embeddings
    members           (G,) bool

    A query with a NaN score has no best item.
    """
    if not members.any():
        return np.zeros(len(queries), dtype=bool)
    products, parts = Products(gallery.device.type), []
    for some in queries.split(max(1, _SCORES_AT_ONCE // len(gallery))):
        scores = products(some[None], gallery.T[None])[0]
        best, best_member = scores.amax(dim=1), scores[:, members].max(dim=1).values
        parts.append(best_member >= best - TIE_TOLERANCE)
    return torch.cat(parts).cpu().numpy()


def open_bank(cache: FeatureCache, *, measured: np.ndarray, tuned: bool, scoring: str) -> tuple[Bank, Gallery]:
    """The bank, of the train split, and the gallery that parameters are chosen on, of the val split.

    measured  rows of the images to be measured. No image of val or test, and none that is measured, is in the bank;
              neither are copies of them
    tuned     whether the measured images are those of val: then they are chosen on too. Otherwise they are left out
    scoring   its name, for messages

    Raises UsageError when there is nothing left of train or val, CacheError when a feature is not finite.
    """
    held_out = np.concatenate([usable_rows(cache, split=split) for split in ("val", "test")])
    needs = f"--scoring {scoring} needs a train split, as its bank, and a val split, to choose its parameters on"
    try:
        (bank,) = split_without(cache, split="train", rows=np.union1d(held_out, measured)).folds
        (val,) = split_without(cache, split="val", rows=measured[:0] if tuned else measured).folds
    except UsageError as error:
        raise UsageError(f"{needs}, without the images that are measured: {error}") from None
    return Bank(cache, {"image": bank.image_rows, "text": bank.text_rows}), Gallery.read(cache, val)
