"""A summary of a cache: the function behind `clipret info`."""

import re
from collections import Counter
from pathlib import Path

import numpy as np

from clipret.annotations.counting import count_splits
from clipret.cache import DONE, FORMAT, PENDING, SIDES, UNUSABLE, FeatureCache, open_features
from clipret.cache.image_keys import split_copies


def inspect_cache(path: Path | str) -> dict:
    """Describe a cache, finished or not, as a JSON-ready dict.

    Returns path, format, fingerprint, complete, bytes, dataset, model, library, created, command, split_rule, remarks,
    inputs, aligned (whether there are projections to one space), and

        projections  image, text -> shape (D, E), bias (whether there is one) and identity (whether the encoder has
                  none of its own on that side); None: the encoders were never aligned
        images    total, done, todo, unusable, width
        captions  total, done, todo, width; tokens (min, median, max, before truncation), truncated, context_length
        truncated caption row -> id and tokens, of the captions that were too long for the model
        taps      image, text -> width, dtype, tokens, bytes, block and loss of the sides whose tokens it has
        micro_batch  image, text: rows encoded at once after running out of memory; 0: none
        per_image captions per image: min, mean, max
        splits    name -> images and captions
        problems  image row -> file and reason, for the images that could not be read
        single_colour  images whose pixels are all equal as the encoder sees them, and the first one's file (or None)
        cross_split_copies  as returned by split_copies
        members   each cache of several that stand side by side, as this function describes it
        reasons   reason without its details -> number of images, the most frequent first

    Raises CacheError or CacheFormatError.
    """
    cache = open_features(path, allow_incomplete=True)
    # Of imported features they were not counted.
    tokens = cache.tokens[cache.text_states == DONE] if cache.notes["text"] else cache.tokens[:0]
    context_length = cache.about["context_length"]
    images = len(cache.image_states)
    # Captions that were imported without images are of none.
    per_image = np.bincount(cache.caption_images if images else (), minlength=images)
    return {
        "path": str(cache.path),
        "format": FORMAT,
        "fingerprint": cache.fingerprint,
        "complete": cache.complete,
        "bytes": sum(member.path.stat().st_size for member in cache.members),
        "dataset": cache.inputs["dataset"],
        "model": cache.about["model"],
        "library": cache.about["library"],
        "created": cache.about["created"],
        "command": cache.about["command"],
        "split_rule": cache.about["split_rule"],
        "remarks": cache.about["remarks"],
        "projections": {side: _projection(cache, side) for side in SIDES} if cache.aligned else None,
        "inputs": cache.inputs,
        "aligned": cache.aligned,
        "taps": {side: describe_tap(cache, side) for side in cache.taps},
        "images": {**_counts(cache.image_states), "width": cache.width("image")},
        "captions": {
            **_counts(cache.text_states),
            "width": cache.width("text"),
            "tokens": _spread(tokens, np.median) if len(tokens) else None,
            "truncated": int(np.sum(tokens > context_length)),
            "context_length": context_length,
        },
        "truncated": {
            str(row): {"id": cache.caption_ids[row], "tokens": int(cache.tokens[row])}
            for row in np.flatnonzero((cache.text_states == DONE) & (cache.tokens > context_length)).tolist()
        },
        "micro_batch": cache.micro_batch,
        "decoding": cache.about.get("decoding"),
        "per_image": _spread(per_image, np.mean) if len(per_image) else None,
        "splits": count_splits(cache.image_splits, cache.caption_images) if len(per_image) else {},
        "problems": {str(row): {"file": cache.image_files[row], "reason": why} for row, why in cache.problems.items()},
        "single_colour": count_single_colour(cache),
        "cross_split_copies": split_copies(cache),
        "members": [inspect_cache(member.path) for member in cache.members if member is not cache],
        "reasons": dict(Counter(map(_kind, cache.problems.values())).most_common()),
    }


def _projection(cache: FeatureCache, side: str) -> dict:
    weight = cache.projections[f"{side}/weight"]
    return {
        "shape": list(weight.shape),
        "bias": f"{side}/bias" in cache.projections,
        "identity": weight.shape[0] == weight.shape[1] and np.array_equal(weight, np.eye(len(weight))),
    }


def describe_tap(cache: FeatureCache, side: str) -> dict:
    """The tokens of a side: width, dtype, tokens (how many), bytes, block (its form) and loss (measured, or None)."""
    tap = cache.taps[side]
    rows = np.arange(len(cache.checksums[side]))
    return {
        "width": tap.width,
        "dtype": tap.dtype,
        "tokens": int(tap.lengths(rows).sum()),
        "bytes": int(tap.row_bytes(rows).sum()),
        "block": cache.blocks[side].form,
        "loss": (cache.about.get("tap_loss") or {}).get(side),
    }


def count_single_colour(cache: FeatureCache) -> dict:
    """The number of images that are a single colour after preprocessing, and the file of the first one, or None."""
    rows = np.flatnonzero(cache.single_colour)
    return {"images": len(rows), "first": cache.image_files[rows[0]] if len(rows) else None}


def _kind(reason: str) -> str:
    """A reason without the details of the image: `too elongated: 9000x1 ...` -> too elongated."""
    return re.split(r"[:(]", reason, maxsplit=1)[0].strip() or "no reason given"


def _counts(states: np.ndarray) -> dict[str, int]:
    named = {"done": DONE, "todo": PENDING, "unusable": UNUSABLE}
    return {"all": len(states), **{name: int(np.sum(states == code)) for name, code in named.items()}}


def _spread(values: np.ndarray, middle) -> dict[str, float]:
    return {"min": int(values.min()), middle.__name__: round(float(middle(values)), 2), "max": int(values.max())}
