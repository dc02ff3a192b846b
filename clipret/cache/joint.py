"""Caches of the same images and captions side by side: `a.h5,b.h5` is one cache to whoever reads it.

A feature of a joint cache is that of each member, one behind the other, each divided by the norm of what the member's
own projection makes of it. So the joint projection, which has the members' on its diagonal and zeros beside them, gives
unit embeddings of all members side by side: the cosine of two of them is the mean of the members' cosines. Heads,
losses and starts know nothing of it.
"""

import functools
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from clipret.cache.attributes import INPUTS
from clipret.cache.layout import DONE, NO_NOTES, PENDING, SIDES, UNUSABLE, fingerprint_of
from clipret.cache.matching import matched_rows
from clipret.cache.reading import FeatureCache
from clipret.cache.selecting import FeatureArray, rows_of
from clipret.cache.stored import row_numbers
from clipret.errors import CacheError, CacheMismatchError

_BETWEEN = ","
# Norms are computed in blocks cut by row number, so that their bits do not depend on which rows are read together.
_BLOCK = 1024
# Of a row of zeros: as torch.nn.functional.normalize has it.
_SMALLEST_NORM = 1e-12
# Decides the features' values beside those of the members.
_RULE = "unit norm behind each projection"


def cache_paths(path: Path | str) -> tuple[Path, ...]:
    """The files of a cache: several for `a.h5,b.h5`, unless one file has that very name. Raises CacheError."""
    words = os.fspath(path).split(_BETWEEN)
    if len(words) == 1 or Path(path).exists():
        return (Path(path),)
    if not all(words):
        raise CacheError(f"'{path}' names a cache without a name; expected paths with single commas between.")
    return tuple(map(Path, words))


def open_features(path: Path | str, *, allow_incomplete: bool = False) -> FeatureCache:
    """Open a cache by its path, or several side by side by theirs with commas between: a FeatureCache or a JointCache.

    Raises as FeatureCache does, and CacheMismatchError when they are not of the same images, captions and splits.
    """
    paths = cache_paths(path)
    if len(paths) == 1:
        return FeatureCache(paths[0], allow_incomplete=allow_incomplete)
    return JointCache(paths, allow_incomplete=allow_incomplete)


class JointCache(FeatureCache):
    """Several caches of the same images and captions, side by side, with the rows and texts of the first.

    image_features, text_features   float32, of all members one behind the other, each divided by the norm of its
                    projection, and by the square root of how many members there are; of a member whose projection has a
                    bias one number more, which takes the bias to the joint projection; of one without projections
                    divided by its own norm
    projections     the members' on the diagonal, zeros beside them. A member without projections has zeros alone: it
                    says nothing until it is learned from. logit_scale is the mean. None where no member has any
    image_states    done where it is in all members
    fingerprint     of the members' and their order
    members         the caches
    """

    def __init__(self, paths: Iterable[Path | str], *, allow_incomplete: bool = False):
        """Open the caches at these paths, in their order.

        Raises as FeatureCache does, and CacheMismatchError when one of them is there twice, or they differ in their
        images, captions or splits.
        """
        paths = tuple(map(Path, paths))
        self.path = Path(_BETWEEN.join(map(str, paths)))
        caches = tuple(FeatureCache(path, allow_incomplete=allow_incomplete) for path in paths)
        for place, cache in enumerate(caches):
            cache.require_pairs()
            _require_new(cache, before=caches[:place])
        first = caches[0]
        share = len(caches) ** -0.5
        rows = [matched_rows(first, cache) if cache is not first else {} for cache in caches]
        self._members = [_Member(cache, of, share=share) for cache, of in zip(caches, rows, strict=True)]
        self.image_splits, self.caption_images = first.image_splits, first.caption_images
        self.image_states, self.text_states = (_states(self._members, side) for side in SIDES)
        self.problems = {row: why for member in reversed(self._members) for row, why in member.problems().items()}
        self.projections = _projections(self._members)
        self.inputs, self.about = _inputs(caches), _about(caches, path=self.path)
        self.fingerprint = fingerprint_of({"members": [cache.fingerprint for cache in caches], "scaled": _RULE})
        self.checksums = first.checksums
        self.notes, self._token_notes, self.taps, self.blocks = NO_NOTES, None, {}, {}
        self.micro_batch = dict.fromkeys(SIDES, 0)

    @property
    def members(self) -> tuple[FeatureCache, ...]:
        """The caches, in their order."""
        return tuple(member.cache for member in self._members)

    @functools.cached_property
    def image_features(self) -> np.ndarray:
        """All of the images' features, in memory."""
        return self.features("image")

    @functools.cached_property
    def text_features(self) -> np.ndarray:
        """All of the captions' features, in memory."""
        return self.features("text")

    @functools.cached_property
    def image_digests(self) -> np.ndarray:
        """As of a FeatureCache; those of the first member that knows them."""
        return functools.reduce(
            _known, (member.by_row("image", member.cache.image_digests) for member in self._members)
        )

    @functools.cached_property
    def single_colour(self) -> np.ndarray:
        """As of a FeatureCache: as the first member's encoder sees them."""
        return self.members[0].single_colour

    @property
    def dtype(self) -> np.dtype:
        """Of the features."""
        return np.dtype(np.float32)

    @property
    def segmented(self) -> bool:
        """As of a FeatureCache."""
        return True

    def width(self, side: str) -> int:
        """Of a feature of that side."""
        return sum(member.width(side) for member in self._members)

    def features(self, side: str, *, split: str | None = None) -> FeatureArray:
        """As of a FeatureCache, in memory."""
        rows = rows_of(self, side, split=split)
        return self.read(side, slice(None) if split is None else rows).view(FeatureArray)

    def read(self, side: str, rows: np.ndarray) -> np.ndarray:
        """As of a FeatureCache."""
        rows = row_numbers(rows, total=len(self.checksums[side]))
        features = np.empty((len(rows), self.width(side)), dtype=np.float32)
        start = 0
        for member in self._members:
            end = start + member.width(side)
            member.read_into(features[:, start:end], side=side, rows=rows)
            start = end
        return features

    def stored(self, side: str, rows: range | np.ndarray):
        """Raises CacheError: rows are stored in the members."""
        raise CacheError(f"{self.path} has no rows of its own; open one of its caches.")

    def require_tokens(self, *sides: str) -> None:
        """Raise CacheError when tokens are asked for."""
        if sides:
            raise CacheError(
                f"{self.path} is {len(self.members)} caches side by side, of which a head of kind block cannot read "
                f"tokens; give one of them with --cache, or another --head."
            )


class _Member:
    """A cache beside others, read by the rows of the first."""

    def __init__(self, cache: FeatureCache, rows: dict[str, np.ndarray], *, share: float):
        """rows: side -> the cache's row (N,) of each row of the first; without sides whose rows are the same ones."""
        self.cache, self._rows, self._share = cache, rows, share
        self._scales = {}
        for side, states in (("image", cache.image_states), ("text", cache.text_states)):
            self._scales[side] = np.where(states == DONE, np.float32("nan"), np.float32(0))

    def width(self, side: str) -> int:
        """Of its part of a feature of that side."""
        return self.cache.width(side) + (self._bias(side) is not None)

    def by_row(self, side: str, values: np.ndarray) -> np.ndarray:
        """Values of the cache's rows (N, ...), in the order of the first cache's."""
        return values[self._rows[side]] if side in self._rows else values

    def problems(self) -> dict[int, str]:
        """The cache's, by the rows of the first."""
        own = np.arange(len(self.cache.image_states))
        place = {row: first for first, row in enumerate(self.by_row("image", own).tolist())}
        return {place[row]: reason for row, reason in self.cache.problems.items()}

    def projection(self, side: str) -> np.ndarray | None:
        """(width, E), with the bias as its last row; None: the encoder has none."""
        weight, bias = self.cache.projections.get(f"{side}/weight"), self._bias(side)
        return weight if bias is None else np.concatenate([weight, bias[None]])

    def read_into(self, features: np.ndarray, *, side: str, rows: np.ndarray) -> None:
        """Write the features of rows of the first cache to (n, width)."""
        own = self._rows[side][rows] if side in self._rows else rows
        values, width = self.cache.read(side, own), self.cache.width(side)
        scales = self._scales_of(side, own)
        np.multiply(values, scales[:, None], out=features[:, :width])
        features[:, width:] = scales[:, None]

    def _bias(self, side: str) -> np.ndarray | None:
        return self.cache.projections.get(f"{side}/bias")

    def _scales_of(self, side: str, rows: np.ndarray) -> np.ndarray:
        """(n,) float32: what features of the cache's rows are multiplied by; 0 where there is none."""
        scales = self._scales[side]
        for block in np.unique(rows[np.isnan(scales[rows])] // _BLOCK).tolist():
            span = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, len(scales)))
            of_block = span[scales[span] != 0]
            scales[of_block] = self._share / np.maximum(self._norms(side, of_block), _SMALLEST_NORM)
        return scales[rows]

    def _norms(self, side: str, rows: np.ndarray) -> np.ndarray:
        projected = self.cache.read(side, rows).astype(np.float32)
        weight, bias = self.cache.projections.get(f"{side}/weight"), self._bias(side)
        if weight is not None:
            projected = projected @ weight.astype(np.float32)
        if bias is not None:
            projected += bias.astype(np.float32)
        return np.linalg.norm(projected, axis=1)


def _require_new(cache: FeatureCache, *, before: tuple[FeatureCache, ...]) -> None:
    for earlier in before:
        if cache.fingerprint == earlier.fingerprint:
            what = "it is there twice" if cache.path.samefile(earlier.path) else f"{earlier.path} has the same features"
            raise CacheMismatchError(
                f"{cache.path} cannot stand beside {earlier.path}: {what} (fingerprint {cache.fingerprint[:12]}); give "
                f"caches of different encoders or settings."
            )


def _known(digests: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.where(digests.any(axis=1, keepdims=True), digests, others)


def _states(members: list[_Member], side: str) -> np.ndarray:
    name = f"{side}_states"
    states = np.stack([member.by_row(side, getattr(member.cache, name)) for member in members])
    joint = np.where((states == DONE).all(axis=0), DONE, UNUSABLE).astype(np.uint8)
    joint[(states == PENDING).any(axis=0)] = PENDING
    return joint


def _projections(members: list[_Member]) -> dict[str, np.ndarray]:
    """On the diagonal the members' projections, as JointCache has them."""
    aligned = [member for member in members if member.cache.aligned]
    scales = [float(member.cache.projections["logit_scale"]) for member in aligned or members]
    joint = {"logit_scale": np.float32(np.mean(scales))}
    for side in SIDES if aligned else ():
        blocks = [member.projection(side) for member in aligned]
        weight = np.zeros((sum(m.width(side) for m in members), sum(block.shape[1] for block in blocks)), np.float32)
        row = column = 0
        for member in members:
            if member.cache.aligned:
                block = member.projection(side)
                weight[row : row + len(block), column : column + block.shape[1]] = block
                column += block.shape[1]
            row += member.width(side)
        joint[f"{side}/weight"] = weight
    return joint


def _joined(values: Iterable[object]) -> str:
    """Values that may be equal, as one text."""
    return " + ".join(dict.fromkeys(map(str, values)))


def _inputs(caches: tuple[FeatureCache, ...]) -> dict:
    """What decided the features of all of them; the data set is called as the first calls it."""
    first = caches[0].inputs
    weights = "\n".join(cache.inputs["weights_sha256"] for cache in caches)
    return {
        **{name: _joined(cache.inputs[name] for cache in caches) for name in INPUTS},
        "weights_sha256": hashlib.sha256(weights.encode()).hexdigest(),
        "dataset": first["dataset"],
        "dtype": "float32",
        **{name: first[name] for name in ("annotation_sha256",) if name in first},
    }


def _about(caches: tuple[FeatureCache, ...], *, path: Path) -> dict:
    def every(name: str) -> list:
        return [cache.about[name] for cache in caches]

    aligned = [cache.aligned for cache in caches]
    silent = [
        f"{cache.path} has no projections: it starts as zeros, and says nothing until it is learned from"
        for cache in caches
        if any(aligned) and not cache.aligned
    ]
    return {
        "model": " + ".join(every("model")),
        "library": _joined(every("library")),
        "batch_size": min(every("batch_size")),
        "context_length": min(every("context_length")),
        "split_rule": every("split_rule")[0],
        "remarks": [*dict.fromkeys(remark for remarks in every("remarks") for remark in remarks), *silent],
        "command": f"clipret info {path}",
        "created": max(every("created")),
        **{name: caches[0].about[name] for name in ("root",) if name in caches[0].about},
    }
