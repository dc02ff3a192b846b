"""A head by itself, for features that are at hand: neither an encoder nor, for most heads, a cache is needed."""

from pathlib import Path

import numpy as np
import torch

from clipret.cache import FeatureCache
from clipret.errors import UsageError
from clipret.evaluation.inputs import Source, find_head, find_source, open_cache
from clipret.heads import files
from clipret.heads.base import TOKENS, Head
from clipret.heads.linear import LinearHead
from clipret.machine.token_rows import TokenRows
from clipret.retrieval.baseline import baseline_projections
from clipret.retrieval.gallery import embed

_BLOCK = 16_384
Features = np.ndarray | torch.Tensor | TokenRows


class LoadedHead:
    """Features -> embeddings, in blocks, so that memory maps larger than memory can be embedded.

    head    the torch module
    path    of its file; None: the encoder's own head
    """

    def __init__(self, head: Head, *, path: Path | None = None):
        self.head, self.path = head.requires_grad_(False).eval(), path

    def embed_images(self, features: Features) -> Features:
        """(B, D_i) image features as a cache has them -> (B, E) float32 of norm 1.

        features  a numpy array, memory maps included, which gives a numpy array, or a tensor, which gives one on its
                  device; floating-point numbers of any width, not normalised. A head that reads tokens takes
                  cache.read_tokens(side, rows).torch(), and gives a tensor

        A row has the same bits whatever rows it is with. Raises UsageError for features of another shape or type, or
        that are not finite, and HeadError as the head does.
        """
        return self._embedded("image", features)

    def embed_texts(self, features: Features) -> Features:
        """(B, D_t) text features -> (B, E) float32 of norm 1, as embed_images."""
        return self._embedded("text", features)

    @property
    def kind(self) -> str:
        """linear, adapter, ... or own."""
        return self.head.kind

    @property
    def widths(self) -> str:
        """The widths of features and embeddings, in words."""
        return self.head.widths

    def __repr__(self) -> str:
        return f"<head {self.path or 'zero-shot'}: {self.kind}, {self.widths}>"

    def _embedded(self, side: str, features: Features) -> Features:
        self._require(side, features)
        function = self.head.embed_images if side == "image" else self.head.embed_texts
        if isinstance(features, TokenRows):
            device = next(iter(self.head.tensors.values())).device
            return embed(function, features, device=device).float()
        if isinstance(features, torch.Tensor):
            self.head.to(features.device)
            with torch.no_grad():
                blocks = [embed(function, block, device=block.device) for block in features.split(_BLOCK)]
            embeddings = torch.cat(blocks).float()
        else:
            device = next(iter(self.head.tensors.values())).device
            embeddings = embed(function, features, device=device, block=_BLOCK).float()
        _require_finite(side, features, embeddings)
        return embeddings if isinstance(features, torch.Tensor) else embeddings.cpu().numpy()

    def _require(self, side: str, features: Features) -> None:
        kind = self.head.inputs[side]
        if (kind == TOKENS) != isinstance(features, TokenRows):
            source = "read_tokens('{}', rows).torch()" if kind == TOKENS else "read('{}', rows)"
            raise UsageError(
                f"{side} rows are {type(features).__name__}; this head of kind {self.kind} reads {kind}: give it "
                f"cache.{source.format(side)}."
            )
        if kind == TOKENS:
            return
        shape = tuple(getattr(features, "shape", ()))
        weight = getattr(self.head, f"{side}_weight", None)
        width = None if weight is None else weight.shape[0]
        tensor = isinstance(features, torch.Tensor)
        floating = features.is_floating_point() if tensor else getattr(features, "dtype", np.dtype("O")).kind == "f"
        if len(shape) != 2 or not shape[0] or not floating or width not in (None, shape[1]):
            is_what = f"{shape} of {features.dtype}" if shape else type(features).__name__
            raise UsageError(
                f"{side} features are {is_what}; expected (rows, {width or 'width'}) of floating-point numbers, as a "
                f"numpy array or a tensor, with one row or more."
            )


def _require_finite(side: str, features: Features, embeddings: torch.Tensor) -> None:
    """Raise UsageError where embeddings are not finite: their features are not, or are too large for the head."""
    broken = torch.nonzero(~embeddings.isfinite().all(dim=1))[:, 0].tolist()
    if broken:
        values = torch.as_tensor(features[broken[0]])
        reason = (
            f"are too large for this head (up to {values.abs().max():.0e})"
            if values.isfinite().all()
            else "are not finite"
        )
        raise UsageError(f"{side} features of row {broken[0]} {reason}; expected features whose embeddings are finite.")


def load_head(run: Path | str, *, cache: Path | str | None = None) -> LoadedHead:
    """The head of a run's folder, or of a head.safetensors.

    cache  only for a head of the user's own, which is made of the projections of the encoder: in the place of the cache
           that the run was trained on

    Raises RunError when there is none, HeadError when its file cannot be used, and for a head of the user's own
    CacheError, and UsageError when the code was never trusted.
    """
    path, _ = find_head(Path(run))
    if not files.needs_projections(path):
        return LoadedHead(files.load_head_alone(path), path=path)
    places = find_source(cache=cache and Path(cache), head=path, zero_shot=False, runs_dir=Path())
    return open_head(places)[1]


def open_head(places: Source) -> tuple[FeatureCache, LoadedHead]:
    """(cache, head): both of a Source, opened; a Source without a head has the baseline's."""
    cache = open_cache(places)
    projections = baseline_projections(cache)
    if places.head is None:
        return cache, LoadedHead(LinearHead(projections))
    head = files.load_head(places.head, projections=projections, weights_sha256=cache.inputs["weights_sha256"])
    return cache, LoadedHead(head, path=places.head)
