"""A head and a gallery -> metrics of both directions, for model selection in training and for evaluation."""

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from clipret.cache import FeatureCache
from clipret.config import DIRECTIONS, EvalConfig
from clipret.errors import HeadError, UsageError
from clipret.heads.base import FEATURES
from clipret.machine.progress import Progress, ProgressCallback, silent
from clipret.machine.token_rows import TokenRows
from clipret.metrics import validation_metrics
from clipret.protocols.protocol import Fold, split_protocol
from clipret.retrieval.engine import Matches, rank
from clipret.retrieval.inputs import Rows, block_of, block_rows, embed_block, read_rows
from clipret.retrieval.metrics import summarise
from clipret.retrieval.ranks import Ranks

if TYPE_CHECKING:
    from clipret.retrieval.scorers import Scorer

# Features of a small gallery are kept as float32 on the device. Those of a larger one are read, copied to the device
# and converted a block at a time.
_HELD_BYTES = 256 << 20
_BLOCK = 16_384


class StoredRows:
    """Rows of a cache, read by slices on demand.

    size   numbers in all of them, where they are features
    block  how many rows to read at a time
    """

    def __init__(self, cache: FeatureCache, side: str, *, rows: np.ndarray, kind: str = FEATURES):
        """kind: FEATURES (B, D), or TOKENS, which come as TokenRows."""
        self._cache, self._side, self._rows, self._kind = cache, side, rows, kind
        self.size = len(rows) * cache.width(side)
        self.block = block_rows(cache, side, kind=kind, most=_BLOCK)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, span: slice) -> Rows:
        """Read the rows into memory. Raises CacheError when a feature is not finite."""
        return read_rows(self._cache, self._side, self._rows[span], kind=self._kind)


Features = np.ndarray | Rows | StoredRows


@torch.no_grad()
def embed(
    function: Callable[[Rows], torch.Tensor],
    features: Features,
    *,
    device: str | torch.device,
    block: int | None = None,
) -> torch.Tensor:
    """Embeddings of all rows, computed in blocks, so that features on disk need not fit in memory.

    function  a head's embed_images or embed_texts
    features  (B, D), or TokenRows of B rows
    device    device of the head and of the embeddings
    block     rows at a time; None: as many as are best

    Returns (B, E) float32 on the device.
    """
    if isinstance(features, torch.Tensor):
        return embed_block(function, features.to(device))
    embeddings = None
    block = block or _block_of(features)
    for start in range(0, len(features), block):
        embedded = embed_block(function, _as_rows(features[start : start + block]).to(device))
        if embeddings is None:
            # Allocated once: concatenating the blocks at the end would take twice the memory.
            embeddings = embedded.new_empty((len(features), embedded.shape[1]))
        embeddings[start : start + len(embedded)] = embedded
    return embeddings


def _block_of(features: Features) -> int:
    """How many of these rows to compute with at a time."""
    return block_of(features, most=_BLOCK) if isinstance(features, TokenRows) else getattr(features, "block", _BLOCK)


def _as_rows(values: np.ndarray | Rows) -> Rows:
    # Copied, as a read-only memory map cannot become a writable tensor.
    return torch.from_numpy(np.array(values)) if isinstance(values, np.ndarray) else values


def read_validation(cache: FeatureCache) -> "Gallery | None":
    """The whole of val, which is what training reports; None when the cache has no val split."""
    try:
        (fold,) = split_protocol(cache, split="val").folds
    except UsageError:
        return None
    return Gallery.read(cache, fold)


def require_unit(head: nn.Module, side: str, embeddings: torch.Tensor, *, features: Features, rows: np.ndarray) -> None:
    """Raise HeadError when float32 overflow or underflow left embeddings (B, E) of features (B, D) without unit norm.

    Such a row is zero or NaN after normalisation, and its similarities would look like those of a bad head. Rows that
    are zero in float64 too, and heads with non-finite tensors, are not reported.

    rows  (B,) rows of the cache, for the message
    """
    lost = ~(torch.linalg.vector_norm(embeddings, dim=1) > 0)
    if not lost.any() or not all(tensor.isfinite().all() for tensor in head.tensors.values()):
        return
    exact = copy.deepcopy(head).double()
    function = exact.embed_images if side == "image" else exact.embed_texts
    size = _block_of(features)
    for start in range(0, len(embeddings), size):
        places = torch.nonzero(lost[start : start + size])[:, 0].cpu()
        if len(places):
            values = _as_rows(features[start : start + size])[places]
            wrong = torch.linalg.vector_norm(function(values.to(embeddings.device)), dim=1) > 0
            if wrong.any():
                row = rows[start + int(places[wrong.cpu()][0])]
                raise HeadError(
                    f"the embedding of {side} row {row} overflows or underflows in float32: its features, or the "
                    f"head's weights, are too large or too small (up to {_largest_of(values):.0e} and "
                    f"{_largest(head):.0e}); extract or train again with "
                    f"values near 1."
                )


def _largest_of(rows: Rows) -> torch.Tensor:
    return (rows.float().values if isinstance(rows, TokenRows) else rows).abs().max()


def _largest(head: nn.Module) -> torch.Tensor:
    # One of the user's own may have whole numbers, masks, and tensors of nothing.
    return max(t.abs().max() for t in head.tensors.values() if t.is_floating_point() and t.numel())


@dataclass(frozen=True)
class Gallery:
    """The features of a gallery's images (N, D_image) and captions (M, D_text); a large gallery reads them on demand.

    rows            image, text -> (N,), (M,) rows of the cache
    caption_images  (M,) the position of each caption's image
    matches         as Fold.matches
    cache           where the tokens are, for heads that read them; None: there are no such heads
    """

    images: np.ndarray | StoredRows
    texts: np.ndarray | StoredRows
    rows: dict[str, np.ndarray]
    caption_images: np.ndarray
    matches: dict[str, tuple[np.ndarray, np.ndarray]] | None = None
    cache: FeatureCache | None = None
    _on_device: dict = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def read(cls, cache: FeatureCache, fold: Fold) -> "Gallery":
        """The gallery of a fold. A large one is read on demand. Raises CacheError when a feature is not finite."""
        rows = {"image": fold.image_rows, "text": fold.text_rows}
        sides = [StoredRows(cache, side, rows=of_side) for side, of_side in rows.items()]
        if not _is_large(*sides):
            sides = [cache.read(side, of_side) for side, of_side in rows.items()]
        return cls(*sides, rows, fold.caption_images, fold.matches, cache)

    @functools.cached_property
    def _pairs(self) -> Matches:
        return Matches.of(self.caption_images, images=len(self.images), matches=self.matches)

    def rank(
        self,
        head: nn.Module,
        *,
        device: str,
        block: int = EvalConfig.block,
        top: int = 0,
        precision: str = EvalConfig.precision,
        on_progress: ProgressCallback = silent,
    ) -> dict[str, Ranks]:
        """{"t2i": Ranks, "i2t": Ranks} of the head's embeddings, with the queries' images; settings as in engine.rank.

        head    on the device

        Raises HeadError as require_unit does.
        """
        settings = {"block": block, "top": top, "precision": precision, "on_progress": on_progress}
        return self.rank_embeddings(self.embed(head, device=device), **settings)

    def embed(self, head: nn.Module, *, device: str) -> dict[str, torch.Tensor]:
        """image, text -> (N, E), (M, E): the head's embeddings. Raises HeadError as require_unit does."""
        rows = self._rows(head, device=device)
        embeddings = {
            "image": embed(head.embed_images, rows["image"], device=device),
            "text": embed(head.embed_texts, rows["text"], device=device),
        }
        for side, features in rows.items():
            require_unit(head, side, embeddings[side], features=features, rows=self.rows[side])
        return embeddings

    def rank_embeddings(self, embeddings: Mapping[str, torch.Tensor], **settings) -> dict[str, Ranks]:
        """As rank, of what `embed` returns; settings as in engine.rank."""
        ranks = rank(embeddings["image"], embeddings["text"], matches=self._pairs, **settings)
        images = {"t2i": self.caption_images[ranks["t2i"].asking], "i2t": ranks["i2t"].asking}
        return {direction: replace(ranks[direction], images=images[direction]) for direction in DIRECTIONS}

    def measure(self, head: nn.Module, *, device: str) -> dict[str, dict[str, float]]:
        """{"t2i": {"R@1": ...}, "i2t": {...}}: the validation metrics of training, as returned by metrics.summarise."""
        families = validation_metrics()
        ranks = self.rank(head, device=device)
        return {direction: summarise(of_queries, families=families) for direction, of_queries in ranks.items()}

    def _rows(self, head: nn.Module, *, device: str) -> dict[str, Features]:
        """image, text -> what the head reads of it."""
        inputs = head.inputs
        features = self._features(device) if FEATURES in inputs.values() else ()
        rows = dict(zip(("image", "text"), features, strict=False))
        for side, kind in inputs.items():
            if kind != FEATURES:
                rows[side] = StoredRows(self.cache, side, rows=self.rows[side], kind=kind)
        return rows

    def _features(self, device: str) -> tuple:
        if _is_large(self.images, self.texts):
            return self.images, self.texts
        if device not in self._on_device:
            # Kept for one device only, so that the limit holds for all devices together.
            self._on_device.clear()
            self._on_device[device] = tuple(
                torch.from_numpy(np.asarray(side, dtype=np.float32)).to(device) for side in (self.images, self.texts)
            )
        return self._on_device[device]


def _is_large(images: np.ndarray | StoredRows, texts: np.ndarray | StoredRows) -> bool:
    return 4 * (images.size + texts.size) > _HELD_BYTES


def rank_folds(
    cache: FeatureCache,
    folds: tuple[Fold, ...],
    *,
    heads: Mapping[str, nn.Module],
    device: str,
    scorers: "Mapping[str, Scorer]" = MappingProxyType({}),
    on_progress: ProgressCallback = silent,
    **settings,
) -> dict[str, dict[str, tuple[Ranks, ...]]]:
    """Name of head -> direction -> Ranks of each fold. The features of one fold are in memory at a time.

    scorers      name of head -> what also ranks it by another scoring; these ranks follow, as in its `name`
    settings     block, top and precision, as in engine.rank
    on_progress  called with phase "ranking"; counts images of all folds, once per head

    Raises CacheError when a feature is not finite, HeadError as require_unit does.
    """
    heads = {name: head.to(device) for name, head in heads.items()}
    names = [*heads, *(scorer.name for scorer in scorers.values())]
    ranks = {name: {direction: [] for direction in DIRECTIONS} for name in names}
    done, total = 0, len(heads) * sum(len(fold.image_rows) for fold in folds)
    for fold in folds:
        gallery = Gallery.read(cache, fold)
        for name, head in heads.items():

            def report(progress: Progress, before: int = done) -> None:
                on_progress(Progress("ranking", before + progress.done, total))

            embeddings = gallery.embed(head, device=device)
            ranked = {name: gallery.rank_embeddings(embeddings, on_progress=report, **settings)}
            if name in scorers:
                ranked[scorers[name].name] = scorers[name].rank(gallery, embeddings, cosine=ranked[name], **settings)
            for of_name, of_fold in ranked.items():
                for direction in DIRECTIONS:
                    ranks[of_name][direction].append(of_fold[direction])
            done += len(fold.image_rows)
    return {
        name: {direction: tuple(of_folds) for direction, of_folds in directions.items()}
        for name, directions in ranks.items()
    }
