"""Data sets: annotation files -> ordered images, captions, splits. Nothing here opens an image."""

from pathlib import Path

from clipret.datasets.base import RetrievalDataset, split_by_hash
from clipret.datasets.coco import load_coco
from clipret.datasets.emoji import load_emoji
from clipret.errors import DatasetError

__all__ = ["DATASETS", "RetrievalDataset", "load_dataset", "split_by_hash"]

DATASETS = {"emoji": load_emoji, "coco": load_coco}


def load_dataset(name: str, *, root: Path | None = None) -> RetrievalDataset:
    """Read a data set's annotations.

    name  one of DATASETS
    root  where its files are; each data set has its own default

    Raises DatasetError when the name is unknown, or files are missing or malformed.
    """
    if name not in DATASETS:
        raise DatasetError(f"unknown data set '{name}'; expected one of: {', '.join(DATASETS)}.")
    return DATASETS[name](root)
