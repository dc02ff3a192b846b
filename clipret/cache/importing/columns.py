"""Ids, files, captions and splits of ready-made features, and which image a caption is of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipret.annotations.splits import OWN_FRACTIONS, hash_rule, split_by_hash, split_code
from clipret.cache.importing.hashing import split_packed
from clipret.cache.importing.spools import digest_columns, first_repeated, map_blocks
from clipret.cache.texts import ImpliedTexts, PackedTexts
from clipret.config import SPLITS
from clipret.errors import DatasetError


@dataclass(frozen=True)
class Columns:
    """Of N images and M captions, as CacheContents has them.

    keep     (rows of the images' features,) bool: those that are images; None: all
    remarks  what was done, in words
    """

    image_ids: Sequence[str]
    image_files: Sequence[str]
    image_splits: np.ndarray
    captions: Sequence[str]
    caption_ids: Sequence[str]
    caption_images: np.ndarray
    split_rule: str
    keep: np.ndarray | None = None
    remarks: tuple[str, ...] = ()

    @property
    def annotations(self) -> dict:
        """The columns by the names of Annotations."""
        names = ("image_ids", "image_files", "image_splits", "captions", "caption_ids", "caption_images")
        return {name: getattr(self, name) for name in names}

    @property
    def sha256(self) -> str:
        """Over all columns, as they are stored."""
        return digest_columns(list(self.annotations.values()))


def choose_splits(
    rule: str | None, *, codes: np.ndarray | None, ids: Sequence[str], files: Sequence[str]
) -> tuple[np.ndarray, str]:
    """Split codes (N,) uint8 of the images, and in words the rule behind them.

    rule   as ImportConfig.split
    codes  those that the images came with; None: none

    Raises DatasetError when the rule is `given` and they came with none.
    """
    if rule in SPLITS:
        return np.full(len(ids), SPLITS.index(rule), dtype=np.uint8), f"all are {rule}"
    if codes is not None and rule != "hash":
        return np.asarray(codes, dtype=np.uint8), "given"
    if rule == "given":
        raise DatasetError(
            f"--split is 'given', and there is no column that says which split an image is in; name it with --columns "
            f"split=NAME, or use --split hash, or one of {', '.join(SPLITS)} for all images."
        )
    keys, of = ids, "ids"
    if isinstance(ids, ImpliedTexts):
        keys, of = (ids, "row numbers") if isinstance(files, ImpliedTexts) else (files, "paths")
    if isinstance(keys, (PackedTexts, ImpliedTexts)):
        return split_packed(keys, fractions=OWN_FRACTIONS), hash_rule(of)
    return map_blocks(keys, lambda texts: split_by_hash(texts, fractions=OWN_FRACTIONS)), hash_rule(of)


def split_codes(names: Sequence[str | None], *, where: str) -> np.ndarray:
    """Codes (n,) uint8 of the names of splits. Raises DatasetError at one that is none."""
    codes: dict[str | None, int] = {}
    for name in dict.fromkeys(names):
        code = split_code(name) if isinstance(name, str) else None
        if code is None:
            shown = "nothing" if name is None else repr(name)
            raise DatasetError(f"{where} has the split {shown}; expected one of {', '.join(SPLITS)}, or --split hash.")
        codes[name] = code
    return np.array([codes[name] for name in names], dtype=np.uint8)


def require_different(ids: Sequence[str], *, what: str, way_out: str) -> None:
    """Raise DatasetError when two images have the same id, or file."""
    if pair := first_repeated(ids):
        raise DatasetError(
            f"the {what} {ids[pair[0]]!r} is there more than once, of images {pair[0]} and {pair[1]}; {way_out}"
        )
