"""Statistics and errors of a data set's annotations, before anything is encoded: `clipret check`."""

import itertools
import time

import numpy as np

from clipret.annotations.counting import count_splits
from clipret.backbones import load_tokenizer
from clipret.backbones.protocol import Tokenizer
from clipret.config import CheckConfig
from clipret.datasets import load_dataset
from clipret.datasets.base import RetrievalDataset
from clipret.datasets.captions import prompted
from clipret.images import find_plain
from clipret.machine.progress import Progress, ProgressCallback, silent

# Words a caption: lower edges of the histogram's bins.
_EDGES = (1, 6, 11, 16, 21, 31, 51)
_REPORT_EVERY = 10_000


def check_dataset(config: CheckConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Read a data set as extraction would, look for its image files, and count.

    Of images only those in formats with more than eight bits a channel are opened, and of the model only the tokenizer.

    on_progress  called while captions are counted, with phase "captions", and over such images, "image headers"

    Returns dataset, model, root, split_rule, images, captions, remarks, annotation_sha256, seconds, and

        splits     name -> images and captions
        per_image  captions of an image: min, mean, max
        words      of a caption: min, median, max, histogram [{"words": "6-10", "captions": 12}, ...]
        too_long   captions of more tokens than the model's context_length, prompt included, and the first five ids
        missing    images that are not there, and the first five files
        single_colour  images of more than eight bits whose pixels are all equal once clip has converted them, and the
                   first one's file, or None

    Raises DatasetError for everything that would stop extraction, BackboneError when the model is unknown or its file
    is not a checkpoint, and UsageError.
    """
    started = time.perf_counter()
    tokenizer = load_tokenizer(config.model, download_root=config.download_root)
    dataset = load_dataset(config)
    missing = dataset.require_files(skip_missing=config.skip_missing)
    plain = find_plain(dataset.image_files, root=dataset.root, on_progress=on_progress)
    texts = prompted(dataset.captions, prompt=config.prompt, cleaning=config.caption_clean)
    too_long = _find_too_long(texts, tokenizer=tokenizer, on_progress=on_progress)
    return {
        "dataset": dataset.name,
        "model": config.model,
        "root": str(dataset.root),
        "split_rule": dataset.split_rule,
        "images": len(dataset.image_ids),
        "captions": len(dataset.captions),
        "splits": count_splits(dataset.image_splits, dataset.caption_images),
        "per_image": _per_image(dataset),
        "words": _words(dataset.captions),
        "too_long": {
            "captions": len(too_long),
            "context_length": tokenizer.context_length,
            "first": [dataset.caption_ids[row] for row in too_long[:5]],
        },
        "missing": {"images": len(missing), "first": [dataset.image_files[row] for row in missing[:5]]},
        "single_colour": {"images": len(plain), "first": dataset.image_files[plain[0]] if plain else None},
        "remarks": list(dataset.remarks),
        "annotation_sha256": dataset.annotation_sha256,
        "seconds": round(time.perf_counter() - started, 3),
    }


def _find_too_long(texts: list[str], *, tokenizer: Tokenizer, on_progress: ProgressCallback) -> list[int]:
    """Rows, ascending, of the texts that the tokenizer would truncate."""
    rows = []
    for row, text in enumerate(texts):
        if tokenizer.is_too_long(text):
            rows.append(row)
        if (row + 1) % _REPORT_EVERY == 0 or row + 1 == len(texts):
            on_progress(Progress("captions", row + 1, len(texts)))
    return rows


def _per_image(dataset: RetrievalDataset) -> dict[str, float]:
    counts = np.bincount(dataset.caption_images, minlength=len(dataset.image_ids))
    return {"min": int(counts.min()), "mean": round(float(counts.mean()), 4), "max": int(counts.max())}


def _words(captions: list[str]) -> dict:
    counts = np.array([len(caption.split()) for caption in captions])
    inside = np.searchsorted(_EDGES, counts, side="right") - 1
    names = [f"{low}-{high - 1}" for low, high in itertools.pairwise(_EDGES)] + [f"{_EDGES[-1]}+"]
    bins = np.bincount(inside, minlength=len(_EDGES))
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "max": int(counts.max()),
        "histogram": [{"words": name, "captions": int(count)} for name, count in zip(names, bins, strict=True)],
    }
