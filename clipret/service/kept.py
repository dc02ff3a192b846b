"""Embeddings of a gallery: computed once and kept beside the run, discarded when the cache or the head has changed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipret import runs
from clipret.cache import FeatureCache
from clipret.config import EmbedConfig
from clipret.errors import ExportError
from clipret.exports.embeddings.rows import Selection
from clipret.exports.embeddings.stage import embed
from clipret.exports.embeddings.writing import PLURALS
from clipret.machine.progress import ProgressCallback, silent
from clipret.retrieval.baseline import baseline_name

# What is off by more than this in the square of its norm is no embedding that float16 rounded.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Kept:
    """The embeddings of one side.

    values  (n, E) float32 or float16 of norm 1, mapped from the file
    rows    (n,) int64, the cache's rows of them, ascending
    path    of the file
    """

    values: np.ndarray
    rows: np.ndarray
    path: Path

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Where rows of the cache are in `rows`; those that are not there are left out."""
        return np.flatnonzero(np.isin(self.rows, rows, assume_unique=True))

    def require_whole(self, places: np.ndarray) -> None:
        """Raise ExportError when embeddings at these places are not of norm 1, as no damaged one is but by chance."""
        squares = np.square(self.values[places].astype(np.float64)).sum(axis=1)
        if not (np.abs(squares - 1) < _TOLERANCE).all():
            raise ExportError(
                f"{self.path} is damaged: what it has of row {self.rows[places[np.abs(squares - 1).argmax()]]} is no "
                f"embedding; delete the file, and start the same command again."
            )


def kept_path(cache: FeatureCache, head: Path | None, *, split: str, dtype: str, folder: Path | None) -> Path:
    """The --out of the embeddings of a cache through a head.

    head    the file; None: the cache's own head
    folder  that keeps them; None: that of the head, or of the cache
    """
    name = f"embeddings-{split}" if dtype == "float32" else f"embeddings-{split}-{dtype}"
    if head is None:
        folder, name = folder or cache.path.parent, f"{cache.path.stem}.{baseline_name(cache)}-{name}"
    elif folder is not None:
        name = f"{head.parent.name}.{name}"
    elif head.name != runs.HEAD:
        name = f"{head.stem}.{name}"
    return (folder or head.parent) / f"{name}.npy"


def open_kept(
    cache: FeatureCache,
    head: Path | None,
    *,
    split: str,
    dtype: str,
    folder: Path | None = None,
    index: str | None = None,
    device: str = "cpu",
    on_progress: ProgressCallback = silent,
) -> tuple[dict[str, Kept], dict]:
    """image, text -> its embeddings, computed now where they are not kept; and what embed returned.

    index  also build an approximate index, one of exports.INDEXES

    Raises as embed does.
    """
    out = kept_path(cache, head, split=split, dtype=dtype, folder=folder)
    settings = {"split": split, "dtype": dtype, "index": index, "device": device, "replace": True}
    about = embed(EmbedConfig(cache=cache.path, out=out, head=head, **settings), on_progress=on_progress)
    selection = Selection(cache, split=split)
    kept = {}
    for side in selection.sides:
        path = out.with_name(f"{out.stem}.{PLURALS[side]}.npy")
        shape = (len(selection.rows[side]), about["width"])
        kept[side] = Kept(_mapped(path, shape=shape, dtype=dtype), selection.rows[side], path)
    return kept, about


def _mapped(path: Path, *, shape: tuple[int, int], dtype: str) -> np.ndarray:
    try:
        # A file without rows cannot be mapped.
        values = np.load(path, mmap_mode="r" if shape[0] else None, allow_pickle=False)
    except ValueError:
        values = None
    if values is None or values.shape != shape or values.dtype != dtype:
        raise ExportError(f"{path} is damaged; delete it and {path.name}.json, and start the same command again.")
    return values
