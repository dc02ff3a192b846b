"""A cache -> what is in its data, and what may be wrong with them, as a dict: the function behind `clipret look`."""

import csv
import shlex

import numpy as np

from clipret.cache import FeatureCache, open_features
from clipret.cache.inspection import inspect_cache
from clipret.config import SPLITS, LookConfig
from clipret.errors import CacheError
from clipret.evaluation.looking.leaks import find_leaks, find_near_captions
from clipret.evaluation.looking.suspects import draw_map, embeddings, far_images, shared_captions, unlikely_captions
from clipret.machine.devices import choose_device
from clipret.machine.escaping import csv_cell
from clipret.machine.files import replaced
from clipret.machine.progress import ProgressCallback, silent
from clipret.runs import check_place, written

_LENGTHS = 60
_MOST_MAPPED = 300
LEAK_COLUMNS = (
    *("kind", "split", "id", "file", "caption", "other_split", "other_id", "other_file", "other_caption"),
    *("cosine", "ratio"),
)


def examine(config: LookConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Look at the data of a cache.

    on_progress  called while near copies are looked for, with phase "images", and nearly alike captions, "captions"

    Returns cache, as inspect_cache describes it; lengths: of captions in words, counts of 0 to 59 and more; leaks, as
    find_leaks; leak_counts: kind -> number; near_captions, as find_near_captions; unlikely, far, shared and map, as the
    functions of suspects.py, with id, file, split and captions of images. The leaks, and after them the near captions,
    are written to config.leaks, if that is given.

    Raises CacheError, also when a cache has images or captions alone, or none that have a feature.
    """
    if config.leaks:
        check_place("leaks", config.leaks, suffixes=(".csv",))
    cache = open_features(config.cache)
    cache.require_pairs()
    _require_features(cache)
    settings = {"ratio": config.ratio, "on_progress": on_progress}
    leaks = find_leaks(cache, least=config.least, **settings)
    near = find_near_captions(cache, least=config.least_caption, **settings)
    sides = embeddings(cache, device=choose_device(config.device))
    describe = _Described(cache)
    found = {
        "cache": inspect_cache(config.cache),
        "lengths": _lengths(cache),
        "leaks": leaks,
        "leak_counts": {
            kind: sum(leak["kind"] == kind for leak in leaks) for kind in ("equal bytes", "near copy", "same caption")
        },
        "near_captions": near,
        "unlikely": describe.all(unlikely_captions(cache, sides, most=config.listed)),
        "far": describe.all(far_images(cache, sides, most=config.listed)),
        "shared": shared_captions(cache, most=config.listed),
        "map": describe.all(draw_map(cache, sides, kind=config.map, seed=config.seed, most=_MOST_MAPPED)),
    }
    if config.leaks:
        with written(config.leaks, option="leaks"), replaced(config.leaks) as unfinished:
            _write(unfinished, leaks + near)
    return found


def _require_features(cache: FeatureCache) -> None:
    for side, what in (("image", "images"), ("text", "captions")):
        if not len(cache.rows(side)):
            raise CacheError(
                f"{cache.path} has no {what} with a feature, and so nothing to look at; which images could not be read "
                f"is said by: clipret info {shlex.quote(str(cache.path))} --problems"
            )


class _Described:
    """Rows of images with what is known of them."""

    def __init__(self, cache: FeatureCache):
        self._cache = cache
        self._order = np.argsort(cache.caption_images, kind="stable")
        self._starts = np.searchsorted(cache.caption_images[self._order], np.arange(len(cache.image_states) + 1))

    def all(self, entries: list[dict]) -> list[dict]:
        """The entries with id, file, split and captions, up to five."""
        return [entry | self._image(entry["row"]) for entry in entries]

    def _image(self, row: int) -> dict:
        captions = self._order[self._starts[row] : self._starts[row + 1]][:5].tolist()
        cache = self._cache
        return {
            "id": cache.image_ids[row],
            "file": cache.image_files[row],
            "split": SPLITS[cache.image_splits[row]],
            "captions": [cache.captions[caption] for caption in captions],
        }


def _lengths(cache: FeatureCache) -> list[int]:
    captions = cache.captions
    words = [min(len(captions[row].split()), _LENGTHS) for row in cache.rows("text").tolist()]
    return np.bincount(words, minlength=_LENGTHS + 1).tolist()


def _write(path, leaks: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(LEAK_COLUMNS)
        for leak in leaks:
            writer.writerow([csv_cell(leak.get(name)) for name in LEAK_COLUMNS])
