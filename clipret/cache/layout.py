"""What is in a cache, and whether a file is one."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from clipret.errors import CacheError, CacheFormatError

FORMAT = 1
PENDING, DONE, UNUSABLE = 0, 1, 2
SIDES = ("image", "text")
PROBLEM_BYTES = 160
_REQUIRED = (
    *("image/features", "image/id", "image/file", "image/split", "image/state", "image/problem"),
    *("text/features", "text/id", "text/caption", "text/image", "text/state", "text/tokens"),
    *("projection/image/weight", "projection/text/weight", "projection/logit_scale"),
)


@dataclass(frozen=True)
class CacheContents:
    """All of a cache but its features: what is known before the first image is opened.

    image_ids, image_files, image_splits, captions, caption_ids, caption_images  as in datasets.RetrievalDataset
    projections  image/weight, text/weight, logit_scale and perhaps image/bias: CLIP's own head
    dtype        float16 or float32, of the features
    inputs       JSON-ready values that decide the features' values; the fingerprint is made of them
    about        JSON-ready values to keep beside them
    """

    image_ids: list[str]
    image_files: list[str]
    image_splits: np.ndarray
    captions: list[str]
    caption_ids: list[str]
    caption_images: np.ndarray
    projections: dict[str, np.ndarray]
    dtype: str
    inputs: dict
    about: dict

    @property
    def fingerprint(self) -> str:
        """sha256 over the format and the inputs."""
        canonical = json.dumps({"format": FORMAT, **self.inputs}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


def require_cache(path: Path) -> None:
    """Raise unless there is a cache of this format at `path`."""
    if not path.exists():
        raise CacheError(f"there is no cache at {path}; make it with: clipret extract --dataset NAME --out {path}")
    if path.is_dir() or not h5py.is_hdf5(path):
        raise CacheFormatError(f"{path} is not an HDF5 file; expected a cache written by clipret extract.")
    try:
        with h5py.File(path, "r", locking=False) as file:
            attributes = dict(file.attrs)
            missing = [name for name in _REQUIRED if name not in file]
    except OSError as error:
        raise CacheFormatError(f"{path} cannot be read as HDF5 ({error}); delete it and extract again.") from None
    if not {"format", "fingerprint", "inputs", "about"} <= set(attributes):
        raise CacheFormatError(f"{path} is an HDF5 file but not a clipret cache; expected one by clipret extract.")
    if attributes["format"] != FORMAT:
        raise CacheFormatError(
            f"{path} is a cache of format {attributes['format']}, this clipret reads format {FORMAT}; "
            f"extract it again, or use the clipret that wrote it."
        )
    if missing:
        raise CacheFormatError(f"{path} lacks {', '.join(missing)}; delete it and extract again.")


def read_problems(file: h5py.File, states: np.ndarray) -> dict[int, str]:
    """Row -> why that image has no feature, for the rows of state 2; states (N,) uint8."""
    reasons = file["image/problem"][:]
    return {int(row): reasons[row].decode() for row in np.flatnonzero(states == UNUSABLE)}
