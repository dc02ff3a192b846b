"""What is in a cache, and whether a file is one."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from clipret.errors import CacheError, CacheFormatError, CacheMismatchError

FORMAT = 1
PENDING, DONE, UNUSABLE = 0, 1, 2
SIDES = ("image", "text")
PROBLEM_BYTES = 160
_CHUNK = 4096
# What stands beside the features of a side: why an image has none, how many tokens a caption has.
NOTES = {"image": "problem", "text": "tokens"}
# Arrays of fixed size, the only ones that change once the structure is written. All but the last have an entry a row.
RAW = tuple(
    f"{side}/{name}" for side in SIDES for name in ("features", NOTES[side], "checksum", "state", "micro_batch")
)
_REQUIRED = (
    *("image/id", "image/file", "image/split", "text/id", "text/caption", "text/image"),
    *RAW,
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


@contextmanager
def legible(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes of h5py, or of what we read with it, into a CacheFormatError."""
    try:
        yield
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CacheFormatError(f"{path} cannot be read as HDF5 ({reason}); delete it and extract again.") from None


def require_cache(path: Path) -> None:
    """Raise unless there is a cache of this format at `path`."""
    if not path.exists():
        raise CacheError(f"there is no cache at {path}; make it with: clipret extract --dataset NAME --out {path}")
    if path.is_dir() or not h5py.is_hdf5(path):
        raise CacheFormatError(f"{path} is not an HDF5 file; expected a cache written by clipret extract.")
    with legible(path), h5py.File(path, "r", locking=False) as file:
        attributes = dict(file.attrs)
        missing = [name for name in _REQUIRED if name not in file]
    if not {"format", "fingerprint", "inputs", "about"} <= set(attributes):
        raise CacheFormatError(f"{path} is an HDF5 file but not a clipret cache; expected one by clipret extract.")
    if attributes["format"] != FORMAT:
        raise CacheFormatError(
            f"{path} is a cache of format {attributes['format']}, this clipret reads format {FORMAT}; "
            f"extract it again, or use the clipret that wrote it."
        )
    if missing:
        raise CacheFormatError(f"{path} lacks {', '.join(missing)}; delete it and extract again.")


def require_same(path: Path, *, found: dict, asked: dict) -> None:
    """Raise CacheMismatchError, naming the differences, unless the file was made from the inputs asked for."""
    differences = [
        f"{name}: it has {found.get(name)!r}, asked for {asked.get(name)!r}"
        for name in sorted({*found, *asked})
        if found.get(name) != asked.get(name)
    ]
    if differences:
        raise CacheMismatchError(
            f"{path} was made from other inputs ({'; '.join(differences)}). "
            f"Nothing was changed; give another --out, or delete it."
        )


def read_problems(file: h5py.File, states: np.ndarray) -> dict[int, str]:
    """Row -> why that image has no feature, for the rows of state 2; states (N,) uint8."""
    problems = {}
    # Reasons are wide, and most images have none.
    for start in range(0, len(states), _CHUNK):
        places = np.flatnonzero(states[start : start + _CHUNK] == UNUSABLE)
        if len(places):
            reasons = file["image/problem"][start : start + _CHUNK]
            problems |= {start + int(place): reasons[place].decode(errors="replace") for place in places}
    return problems
