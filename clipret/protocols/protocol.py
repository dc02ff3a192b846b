"""Protocols: named rules that turn a cache's images into queries, galleries and matching pairs.

    split                     any split of any cache, all captions
    split-equal-texts         the same, but a caption matches all images that have a caption with the same text
    coco-val2017              val2017, first five captions of an image: as in the reference implementation
    coco-val2017-all          val2017, all captions
    coco-karpathy-5k          Karpathy's 5,000 test images, all 25,010 captions
    coco-karpathy-5k-first5   the same images, first five captions
    coco-karpathy-1k          the same as five galleries of 1,000 images in Karpathy's order; the mean of the five
    coco-karpathy-cxc         the gallery of 5k-first5 with the matches of Crisscrossed Captions, across images; queries
                              are 24,972 captions (the other 28 match no image) and all 5,000 images
    coco-karpathy-eccv        the same gallery with the matches of ECCV Caption; queries are 1,332 captions and 1,261
                              images
    flickr30k-karpathy-1k     Karpathy's 1,000 test images of Flickr30k
    xm3600                    Crossmodal-3600's 3,600 images; measured in a language at a time (languages.py)
    xtd10                     XTD10's 1,000 images of COCO; likewise

The literature reports R@K on CxC, and mAP@R, R-Precision and R@1 on ECCV Caption. ECCV Caption matches two images with
two captions (144675 and 467259) that are not in its gallery of 25,000. They match nothing here; its authors' code
counts them in R, so that mAP@R and R-Precision of i2t differ by about 0.0001 at most.

Sources: Karpathy and Fei-Fei, CVPR 2015, for the split; ECCV Caption (Chun et al., ECCV 2022) for the folds' order, and
for its matches; Crisscrossed Captions (Parekh et al., EACL 2021) for its own.
"""

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np

from clipret.annotations.counting import caption_places
from clipret.annotations.karpathy_ids import karpathy_test_ids
from clipret.cache import FeatureCache
from clipret.config import SPLIT_PROTOCOLS, SPLITS
from clipret.errors import UsageError
from clipret.protocols.matches import OTHERWISE, equal_text_matches, known_captions, known_matches

FIRST_CAPTIONS = 5


@dataclass(frozen=True)
class _Rule:
    """A protocol as the literature defines it.

    dataset           name of the data set whose test split it uses
    images, captions  their numbers over all galleries; captions None: by language, see languages.py
    first             whether only the first five captions of an image are used
    folds             number of galleries that the images are cut into, in order
    truth             source of the matching pairs, see karpathy_ids.matching_ids; None: an image's own captions
    """

    dataset: str
    images: int
    captions: int | None = None
    first: bool = False
    folds: int = 1
    truth: str | None = None


# The first protocol of a data set is its default.
_RULES = {
    "coco-val2017": _Rule("coco", images=5_000, captions=25_000, first=True),
    "coco-val2017-all": _Rule("coco", images=5_000, captions=25_014),
    "coco-karpathy-5k": _Rule("coco-karpathy", images=5_000, captions=25_010),
    "coco-karpathy-5k-first5": _Rule("coco-karpathy", images=5_000, captions=25_000, first=True),
    "coco-karpathy-1k": _Rule("coco-karpathy", images=5_000, captions=25_000, first=True, folds=5),
    "coco-karpathy-cxc": _Rule("coco-karpathy", images=5_000, captions=25_000, truth="cxc"),
    "coco-karpathy-eccv": _Rule("coco-karpathy", images=5_000, captions=25_000, truth="eccv"),
    "flickr30k-karpathy-1k": _Rule("flickr30k", images=1_000, captions=5_000),
    "xm3600": _Rule("xm3600", images=3_600),
    "xtd10": _Rule("xtd10", images=1_000),
}
_EXTRACT = {"coco": "coco", "coco-karpathy": "coco --split karpathy", "flickr30k": "flickr30k"} | {
    name: name for name in ("xm3600", "xtd10")
}


@dataclass(frozen=True)
class Fold:
    """One gallery: the rows of the cache in it, and the matching pairs.

    image_rows      (N,) rows of the cache
    text_rows       (M,) rows of the cache, ascending
    caption_images  (M,) position in image_rows of each caption's image
    matches         None: a caption matches its image, and an image its captions. Else {"t2i": (caption positions,
                    image positions), "i2t": (image positions, caption positions)}, one entry per matching pair, in any
                    order; an item without a match is in the gallery but is not a query
    """

    image_rows: np.ndarray
    text_rows: np.ndarray
    caption_images: np.ndarray
    matches: dict[str, tuple[np.ndarray, np.ndarray]] | None = None

    def queries(self, direction: str) -> int:
        """The number of queries: captions (t2i) or images (i2t) with a match."""
        if self.matches:
            return len(np.unique(self.matches[direction][0]))
        return len(self.text_rows) if direction == "t2i" else len(np.unique(self.caption_images))


@dataclass(frozen=True)
class Protocol:
    """The galleries of a protocol; its metrics are means over them.

    name      of the rule, printed next to every result
    split     of the images; used in messages
    folds     one gallery, or several
    left_out  number of the protocol's images without a usable feature; their captions are left out too
    remarks   reasons why results cannot be compared with published ones
    """

    name: str
    split: str
    folds: tuple[Fold, ...]
    left_out: int
    remarks: tuple[str, ...] = ()

    @property
    def image_rows(self) -> np.ndarray:
        """Rows of the images in all galleries."""
        return np.concatenate([fold.image_rows for fold in self.folds])

    def describe(self) -> dict:
        """The protocol as stored in metrics.json: counts over all galleries; the gallery size is the largest one's.

        An item without a match counts as a caption or an image, but not as a query.
        """
        images, captions = len(self.image_rows), sum(len(fold.text_rows) for fold in self.folds)
        queries = {direction: sum(fold.queries(direction) for fold in self.folds) for direction in ("t2i", "i2t")}
        return {
            "name": self.name,
            "split": self.split,
            "images": images,
            "captions": captions,
            "images_left_out": self.left_out,
            "folds": len(self.folds),
            "t2i": {"queries": queries["t2i"], "gallery": max(len(fold.image_rows) for fold in self.folds)},
            "i2t": {"queries": queries["i2t"], "gallery": max(len(fold.text_rows) for fold in self.folds)},
            "ties": "pessimistic",
            "map_divisor": "min",
            "remarks": list(self.remarks),
        }


def default_protocol(cache: FeatureCache) -> str:
    """The protocol that the literature uses for the cache's data set; `split` for other data sets."""
    return next((name for name, rule in _RULES.items() if rule.dataset == cache.inputs["dataset"]), "split")


def make_protocol(cache: FeatureCache, name: str) -> Protocol:
    """The protocol of that name (config.PROTOCOLS) on a cache; split protocols use the test split.

    Raises UsageError when the cache does not hold the protocol's images, and DatasetError when the protocol needs the
    package `eccv-caption` and it is not installed.
    """
    if name in SPLIT_PROTOCOLS:
        return split_protocol(cache, split="test", name=name)
    rule, planned, usable = _RULES[name], _planned_rows(cache, name), cache.usable
    captions = _planned_captions(cache, rule)
    # Cut before images are left out, so that a missing image does not move others to another gallery.
    parts = np.array_split(planned, rule.folds)
    folds = tuple(_fold(cache, rows[usable[rows]], captions=captions, truth=rule.truth) for rows in parts)
    if not all(fold.queries(direction) for fold in folds for direction in ("t2i", "i2t")):
        raise UsageError(f"--protocol {name}: {cache.path} has too few usable images and captions for it.")
    present = int(captions[np.isin(cache.caption_images, planned)].sum())
    remarks = _remarks(cache, rule, images=len(planned), captions=present)
    return Protocol(name, "test", folds, left_out=int(np.sum(~usable[planned])), remarks=remarks)


def split_protocol(
    cache: FeatureCache, *, split: str, name: str = "split", without: np.ndarray | None = None
) -> Protocol:
    """A protocol of config.SPLIT_PROTOCOLS: every usable image of a split, with all its captions.

    split              t2i: every caption is a query for its image among all images. i2t: every image with a caption is
                       a query for any of its captions among all captions.
    split-equal-texts  the same queries and galleries; a caption and an image match if the image has a caption with the
                       same text. Case and spaces are ignored.

    without  rows of images to leave out, with their captions

    Raises UsageError when the split has no images or no captions, or too many matching pairs.
    """
    in_split = cache.image_splits == SPLITS.index(split)
    if without is not None:
        in_split[without] = False
    fold = _fold(cache, np.flatnonzero(in_split & cache.usable), captions=np.ones(len(cache.text_states), dtype=bool))
    if not len(fold.image_rows) or not len(fold.text_rows):
        counts = ", ".join(f"{name} {np.sum(cache.image_splits == code)}" for code, name in enumerate(SPLITS))
        raise UsageError(
            f"split '{split}' has {len(fold.image_rows)} usable images and {len(fold.text_rows)} captions, "
            f"expected at least one of each; images a split in this cache: {counts}."
        )
    if name == "split-equal-texts":
        fold = replace(fold, matches=equal_text_matches(cache, fold.text_rows, caption_images=fold.caption_images))
    return Protocol(name, split, (fold,), left_out=int(np.sum(in_split & ~cache.usable)))


def protocol_digest(cache: FeatureCache, protocol: Protocol) -> str:
    """sha256 over the ids and captions of every gallery, in order, and the matching pairs.

    Results of two heads have the same queries, galleries and matches exactly when these are equal, also across caches.
    """
    digest, ids, captions = hashlib.sha256(), cache.image_ids, cache.captions
    for fold in protocol.folds:
        texts = [[captions[row], int(owner)] for row, owner in zip(fold.text_rows, fold.caption_images, strict=True)]
        digest.update(json.dumps([[ids[row] for row in fold.image_rows], texts]).encode())
        for side in fold.matches.values() if fold.matches else ():
            digest.update(np.asarray(side, dtype="<i8").tobytes())
    return digest.hexdigest()


def _planned_rows(cache: FeatureCache, name: str) -> np.ndarray:
    """Rows of the protocol's images, usable or not, in the order of the protocol."""
    dataset, needed = cache.inputs["dataset"], _RULES[name].dataset
    if (dataset, needed) == ("coco", "coco-karpathy"):
        otherwise = OTHERWISE if _RULES[name].truth else "extract COCO with --split karpathy"
        ids = karpathy_test_ids(otherwise=otherwise)
        return _rows_of_ids(cache, name, ids=ids)
    if dataset != needed:
        raise UsageError(
            f"--protocol {name} needs a cache of data set '{needed}', {cache.path} is of '{dataset}'; "
            f"extract one with: clipret extract --dataset {_EXTRACT[needed]}"
        )
    return np.flatnonzero(cache.image_splits == SPLITS.index("test"))


def _rows_of_ids(cache: FeatureCache, name: str, *, ids: list[int]) -> np.ndarray:
    rows = {image: row for row, image in enumerate(cache.image_ids)}
    present = [rows[str(image)] for image in ids if str(image) in rows]
    if len(present) < len(ids):
        raise UsageError(
            f"--protocol {name} needs {len(ids):,} images, {cache.path} has {len(present):,} of them; extract all of "
            f"COCO."
        )
    return np.array(present, dtype=np.int64)


def _planned_captions(cache: FeatureCache, rule: _Rule) -> np.ndarray:
    """(captions,) bool: the captions that are used if their image is."""
    if rule.truth:
        return known_captions(cache)
    if rule.first:
        return caption_places(cache.caption_images) < FIRST_CAPTIONS
    return np.ones(len(cache.text_states), dtype=bool)


def _fold(cache: FeatureCache, image_rows: np.ndarray, *, captions: np.ndarray, truth: str | None = None) -> Fold:
    """The gallery of these images with the captions of theirs that are selected by captions (M,) bool."""
    position = np.full(len(cache.image_states), -1, dtype=np.int64)
    position[image_rows] = np.arange(len(image_rows))
    owners = position[cache.caption_images]
    text_rows = np.flatnonzero(captions & (owners >= 0))
    matches = known_matches(cache, truth, image_rows=image_rows, text_rows=text_rows) if truth else None
    return Fold(image_rows, text_rows, owners[text_rows], matches)


def _remarks(cache: FeatureCache, rule: _Rule, *, images: int, captions: int) -> tuple[str, ...]:
    remarks = []
    if images != rule.images:
        remarks.append(f"{images:,} images where the protocol has {rule.images:,}")
    elif rule.captions is not None and captions != rule.captions:
        remarks.append(f"{captions:,} captions where the protocol has {rule.captions:,}")
    for setting, usual in (("prompt", "{}"), ("caption_clean", "none")):
        if cache.inputs[setting] != usual:
            remarks.append(f"{setting.replace('_', ' ')} '{cache.inputs[setting]}' where the protocol has raw captions")
    return tuple(remarks)
