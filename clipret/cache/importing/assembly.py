"""Columns and features together: the cache."""

import datetime
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clipret import __version__
from clipret.cache.importing.columns import Columns, require_different
from clipret.cache.importing.rows import RowChecks, write_rows
from clipret.cache.importing.sources import Source, selected
from clipret.cache.layout import IMPORTED, NO_NOTES, SIDES, CacheContents, ImportedRows
from clipret.cache.texts import PackedTexts
from clipret.cache.writing import open_writer
from clipret.config import FeaturesConfig
from clipret.errors import DatasetError
from clipret.machine.progress import ProgressCallback

# A trained CLIP's: the logarithm of 100. Nothing tells what it was of another encoder.
_LOGIT_SCALE = 4.6052
_WORDS = {
    "normalised": "final embeddings, normalised",
    "final": "final embeddings, of any length",
    "raw": "features before the encoder's projections",
    "pair": "features of two encoders that were never aligned",
}
UNKNOWN = "unknown"
# Nothing is encoded: rows are written some thousand at once, and none depends on another.
_BATCH_SIZE = 65_536


def write_features(
    path: Path,
    columns: Columns,
    *,
    sources: Mapping[str, Source | None],
    settings: FeaturesConfig,
    projections: Mapping[str, np.ndarray] | None,
    command: str,
    on_progress: ProgressCallback,
) -> dict:
    """Make the cache at `path`, go on with it, or find that it is made and holds the same.

    sources  image, text -> features; None of a side without

    Returns what import_features returns, but the files. Raises DatasetError when the features are not what was said,
    CacheError when the cache cannot be written.
    """
    started = time.perf_counter()
    kind = settings.kind or ("raw" if projections else "normalised")
    sources = {side: source and _kept(side, source, columns) for side, source in sources.items()}
    widths = _widths(sources, kind=kind, projections=projections)
    dtype = np.dtype(settings.dtype or _common_type(sources))
    contents = CacheContents(
        **columns.annotations,
        projections=_projections(kind, projections, widths=widths),
        dtype=dtype.name,
        widths=widths,
        inputs=_inputs(
            path, columns, settings=settings, dtype=dtype, what=_what(kind, projections), projections=projections
        ),
        about=_about(columns, settings=settings, command=command),
        notes=NO_NOTES,
    )
    new = not path.exists()
    rows = ImportedRows()
    try:
        with open_writer(path, contents) as writer:
            for side in SIDES:
                if sources[side] is not None:
                    chosen = settings.dtype is not None
                    checks = RowChecks(sources[side], kind, dtype, chosen=chosen, projected=bool(projections))
                    write_rows(writer, side, checks, seen=rows, on_progress=on_progress)
    except DatasetError:
        if new:
            # The features contradict the settings: the next call, with others, makes another cache.
            path.unlink(missing_ok=True)
        raise
    return {
        "cache": str(path),
        "fingerprint": rows.fingerprint(contents.inputs),
        "images": contents.counts["image"],
        "captions": contents.counts["text"],
        "features": contents.inputs[IMPORTED],
        "widths": widths,
        "dtype": dtype.name,
        "split_rule": columns.split_rule,
        "remarks": list(columns.remarks),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _kept(side: str, source: Source, columns: Columns) -> Source:
    return source if side == "text" or columns.keep is None else selected(source, columns.keep)


def _widths(sources: Mapping[str, Source | None], *, kind: str, projections: Mapping | None) -> dict[str, int]:
    """image, text -> D; of a side without features that of the other. Raises DatasetError when they do not fit."""
    widths = {side: source.width for side, source in sources.items() if source is not None}
    for side, width in widths.items():
        if not width:
            raise DatasetError(f"{sources[side].where(0).rpartition(',')[0]} has rows without a value.")
        if projections and projections[f"{side}/weight"].shape[0] != width:
            raise DatasetError(
                f"the {side} features are {width} wide, and {side}/weight of the projections takes "
                f"{projections[f'{side}/weight'].shape[0]}; expected features that come before the projections."
            )
    if kind != "raw" and len(set(widths.values())) > 1:
        raise DatasetError(
            f"the image features are {widths['image']} wide, the text features {widths['text']}; final embeddings have "
            f"one width. Say --kind raw for encoders that were never aligned, or give their projections."
        )
    other = next(iter(widths.values()))
    if projections:
        return {side: projections[f"{side}/weight"].shape[0] for side in SIDES}
    return {side: widths.get(side, other) for side in SIDES}


def _common_type(sources: Mapping[str, Source | None]) -> str:
    types = {source.dtype.newbyteorder("=").name for source in sources.values() if source is not None}
    return "float16" if types == {"float16"} else "float32"


def _projections(kind: str, projections: Mapping | None, *, widths: dict[str, int]) -> dict[str, np.ndarray]:
    """Final embeddings go through the identity: a head starts as what they are."""
    scale = {"logit_scale": np.float32(_LOGIT_SCALE)}
    if projections:
        return scale | dict(projections)
    if kind == "raw":
        return scale
    return scale | {f"{side}/weight": np.eye(widths[side], dtype=np.float32) for side in SIDES}


def _what(kind: str, projections: Mapping | None) -> str:
    return _WORDS["pair" if kind == "raw" and not projections else kind]


def _inputs(
    path: Path, columns: Columns, *, settings: FeaturesConfig, dtype: np.dtype, what: str, projections: Mapping | None
) -> dict:
    """What is known of the features. Heads fit another cache whose `model` and kind were given the same."""
    encoder = hashlib.sha256(f"imported features of {settings.model or UNKNOWN}: {what}".encode())
    for name, values in sorted((projections or {}).items()):
        encoder.update(name.encode())
        encoder.update(np.ascontiguousarray(values, dtype="<f4"))
    return {
        IMPORTED: what,
        "model": settings.model or UNKNOWN,
        "dataset": settings.dataset or f"own-{path.stem}",
        "weights_sha256": encoder.hexdigest(),
        "columns_sha256": columns.sha256,
        "dtype": dtype.name,
        "precision": UNKNOWN,
        "preprocessing": UNKNOWN,
        "decode": "exact",
        "background": settings.background,
        "caption_clean": "none",
        "prompt": settings.prompt,
    }


def _about(columns: Columns, *, settings: FeaturesConfig, command: str) -> dict:
    return {
        "model": settings.model or UNKNOWN,
        "library": f"clipret {__version__}, imported",
        "batch_size": _BATCH_SIZE,
        "context_length": 0,
        "root": str(settings.root or "."),
        "split_rule": columns.split_rule,
        "remarks": list(columns.remarks),
        "command": command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def require_ids(columns: Columns) -> None:
    """Raise DatasetError when two images have the same id."""
    if isinstance(columns.image_ids, PackedTexts):
        require_different(columns.image_ids, what="id", way_out="every image needs its own id.")
