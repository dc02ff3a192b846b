"""Data sets: annotation files -> ordered images, captions, splits. Nothing here opens an image."""

import dataclasses
from pathlib import Path

from clipret.config import DatasetConfig
from clipret.datasets.base import RetrievalDataset, finish, split_by_hash
from clipret.datasets.caption_lists import split_caption_lists
from clipret.datasets.coco import load_coco
from clipret.datasets.emoji import load_emoji
from clipret.datasets.flickr30k import load_flickr30k
from clipret.datasets.own import load_own
from clipret.datasets.parsing import is_there
from clipret.datasets.paths import use_files_that_fit
from clipret.errors import DatasetError, UsageError

__all__ = ["DATASETS", "RetrievalDataset", "load_dataset", "split_by_hash"]

DATASETS = {"emoji": load_emoji, "coco": load_coco, "flickr30k": load_flickr30k}
# The rules of --split that a data set knows, its default first.
_SPLIT_RULES = {"emoji": ("hash",), "coco": ("2017", "karpathy"), "flickr30k": ("karpathy", "hash")}
_OWN_SPLIT_RULES = ("given", "hash")
_TAKEN_NAMES = {*DATASETS, "coco-karpathy", "flickr30k-hash"}


def load_dataset(config: DatasetConfig) -> RetrievalDataset:
    """Read a data set's annotations and check what they say. Opens no image.

    Raises DatasetError when the data set is unknown, or files are missing or malformed, and UsageError when the data
    set has no such split.
    """
    known = config.dataset in DATASETS
    if not known and not _is_path(config.dataset):
        raise DatasetError(
            f"unknown data set '{config.dataset}'; expected one of {', '.join(DATASETS)}, or the path of your own: a "
            f".csv, .tsv, .jsonl, .parquet or .json file, a folder, or .tar shards."
        )
    rules = _SPLIT_RULES.get(config.dataset, _OWN_SPLIT_RULES)
    if config.split is not None and config.split not in rules:
        raise UsageError(f"--split is '{config.split}'; '{config.dataset}' can be split by: {', '.join(rules)}.")
    if known:
        return finish(DATASETS[config.dataset](config), config)
    dataset = split_caption_lists(load_own(config))
    if dataset.name in _TAKEN_NAMES:
        # A file called coco.csv is not COCO: its name must not choose COCO's protocols.
        dataset = dataclasses.replace(dataset, name=f"own-{dataset.name}")
    return use_files_that_fit(finish(dataset, config))


def _is_path(name: str) -> bool:
    return "/" in name or "." in name or is_there(Path(name), Path.exists)
