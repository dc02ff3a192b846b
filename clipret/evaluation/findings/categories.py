"""R@1 by the objects in an image, where COCO's annotations of objects are at hand."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from clipret.annotations.instances import read_instances
from clipret.cache import FeatureCache
from clipret.config import DIRECTIONS
from clipret.evaluation.findings.ranked import Ranked
from clipret.retrieval.ranks import Ranks
from clipret.statistics.intervals import Evidence, all_columns, tabulate
from clipret.statistics.significance import paired

# Of fewer images, an interval of the gain says nothing.
_FEWEST = 30
_LEVEL = 0.95
_METRIC = "R@1"
_DATASETS = ("coco", "coco-karpathy")
# Whoever imports features of COCO may name its images as they like.
_ID = re.compile("[0-9]{1,18}")


def object_categories(ranked: Ranked, *, root: Path) -> dict:
    """R@1 of the queries of the images with an object of a category, for each that 30 images of the gallery have.

    root  has annotations/instances_*.json. Of these, files of which no image of the gallery can be, by the folders and
          names of images, are not opened

    Returns unread, file -> why it could not be read; and categories, direction -> a list, the largest gain first, of
    name, images, queries, before, after (None without a trained head), low and high: the 95 % interval of the gain over
    images. Both are empty where there are no such files, and for other data than COCO's. An image whose id is no
    number has no objects.
    """
    found: dict = {"unread": {}, "categories": {direction: [] for direction in DIRECTIONS}}
    ids = [ranked.cache.image_ids[row] for row in ranked.fold.image_rows.tolist()]
    positions = {int(text): place for place, text in enumerate(ids) if _ID.fullmatch(text)}
    if ranked.cache.inputs["dataset"] not in _DATASETS or not positions:
        return found
    members: dict[str, set[int]] = {}
    for path in _files(ranked.cache, ranked.fold.image_rows, root=root):
        try:
            for name, ids in read_instances(path, images=set(positions)).items():
                members.setdefault(name, set()).update(positions[number] for number in ids)
        except (OSError, ValueError) as error:
            found["unread"][str(path)] = str(getattr(error, "strerror", None) or error)
    for name, places in members.items():
        if len(places) >= _FEWEST:
            for direction, entry in _figures(ranked, np.array(sorted(places))).items():
                found["categories"][direction].append({"name": name, "images": len(places), **entry})
    for entries in found["categories"].values():
        entries.sort(key=lambda entry: (entry["before"] - (entry["after"] or 0), entry["name"]))
    return found


def _files(cache: FeatureCache, rows: np.ndarray, *, root: Path) -> list[Path]:
    files = [cache.image_files[row] for row in rows.tolist()]
    paths = sorted((root / "annotations").glob("instances_*.json"))
    # val2014 of val2014/COCO_val2014_000000000042.jpg. Images may lie elsewhere, under another year's name.
    named = [path for path in paths if any(path.stem.removeprefix("instances_") in file for file in files)]
    return named or paths


def _figures(ranked: Ranked, places: np.ndarray) -> dict[str, dict]:
    """direction -> queries, before, after, low and high, of the queries of some images."""
    heads = [ranked.heads[0], ranked.heads[-1]] if len(ranked.heads) > 1 else ranked.heads
    parts = [
        {direction: (_of_images(ranked.ranks(head, direction), places),) for direction in DIRECTIONS} for head in heads
    ]
    tables = tabulate(parts, k=(1,), families=("R",))
    evidence = Evidence(tables, all_columns(tables[0].names), k=(1,))
    gain = paired(evidence, 1, 0, level=_LEVEL) if len(heads) > 1 else None
    figures = evidence.figures()
    return {
        direction: {
            "queries": parts[0][direction][0].queries,
            "before": figures[0][direction][_METRIC],
            "after": figures[1][direction][_METRIC] if gain else None,
            "low": float(gain.low[column]) if gain else None,
            "high": float(gain.high[column]) if gain else None,
        }
        for column, direction in enumerate(DIRECTIONS)
    }


def _of_images(ranks: Ranks, places: np.ndarray) -> Ranks:
    """The queries of some images, by the rank of their first match, which is all that R@1 needs."""
    where = np.isin(ranks.images, places)
    count = int(where.sum())
    return replace(
        ranks,
        ranks=ranks.first[where],
        offsets=np.arange(count + 1),
        rows=ranks.asking[where],
        images=ranks.images[where],
        top=None,
    )
