"""What every data set reader returns: ordered images, captions and splits, as plain columns."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipret.config import SPLITS
from clipret.errors import DatasetError


@dataclass(frozen=True)
class RetrievalDataset:
    """N images and M captions in a fixed order. No image has been opened.

    name            the data set's name, as given on the command line
    root            folder that image_files are relative to
    image_ids       N strings, the data set's own ids
    image_files     N paths relative to root, with forward slashes
    image_splits    (N,) uint8, indices into config.SPLITS
    captions        M strings
    caption_images  (M,) int64, the row of each caption's image
    background      how transparent pixels are read unless the user says otherwise (config.BACKGROUNDS)
    """

    name: str
    root: Path
    image_ids: list[str]
    image_files: list[str]
    image_splits: np.ndarray
    captions: list[str]
    caption_images: np.ndarray
    background: str = "clip"

    def __post_init__(self):
        if not self.image_ids:
            raise DatasetError(f"data set '{self.name}' at {self.root} has no images; extraction needs at least one.")
        if not self.captions:
            raise DatasetError(f"data set '{self.name}' at {self.root} has no captions; extraction needs at least one.")

    @property
    def annotation_sha256(self) -> str:
        """sha256 over the ids, files, splits, captions and their order: everything a reader decides."""
        columns = [
            self.image_ids,
            self.image_files,
            self.image_splits.tolist(),
            self.captions,
            self.caption_images.tolist(),
        ]
        return hashlib.sha256(json.dumps(columns, ensure_ascii=False).encode()).hexdigest()


def split_by_hash(keys, *, fractions: dict[str, float], salt: str = "clipret") -> np.ndarray:
    """Assign each key to a split by the sha256 of the key alone.

    The split of a key depends on nothing but the key, the fractions and the salt: not on the other keys, their order,
    the machine or a random state. So adding images to a data set never moves another image.

    keys       strings
    fractions  split name -> share, in order; the shares add up to 1
    salt       another salt gives another, equally fixed, split

    Returns (len(keys),) uint8, indices into config.SPLITS.
    """
    codes = [SPLITS.index(name) for name in fractions]
    edges = np.cumsum(list(fractions.values()))
    if abs(edges[-1] - 1) > 1e-9:
        raise ValueError(f"fractions {fractions} add up to {edges[-1]}, expected 1")
    positions = [int.from_bytes(hashlib.sha256(f"{salt}:{key}".encode()).digest()[:8], "big") / 2**64 for key in keys]
    buckets = np.searchsorted(edges[:-1], positions, side="right")
    return np.asarray(codes, dtype=np.uint8)[buckets]
