"""Rereading a cache: whether its structure holds together, and whether every row is what was written."""

import h5py
import numpy as np

from clipret.annotations import annotation_sha256
from clipret.cache.assembling import chunks
from clipret.cache.creating import raw_arrays
from clipret.cache.layout import DONE, PENDING, UNUSABLE, legible
from clipret.cache.reading import FeatureCache
from clipret.config import SPLITS
from clipret.progress import Progress, ProgressCallback, silent

_ROW_FAULTS = ("not what was written", "called done, never written", "not finite", "unusable, yet with a feature")


def check_rows(cache: FeatureCache, side: str, *, on_progress: ProgressCallback = silent) -> dict[str, np.ndarray]:
    """Reread every row of one side that is not to do. Needs memory for some thousand rows only.

    on_progress  called with phase "image rows" or "text rows"

    Returns what can be wrong with a row -> the rows (n,) int64, ascending, with which it is.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in _ROW_FAULTS}
    count = len(cache.checksums[side])
    for rows in chunks(count):
        stored = cache.stored(side, rows)
        # A row that is to do may be half written.
        settled = stored.states != PENDING
        finite = np.isfinite(stored.features).all(axis=1)
        unwritten = stored.checksums == 0
        faults = (
            ~unwritten & stored.mismatches(),
            unwritten,
            ~finite,
            (stored.states == UNUSABLE) & stored.features.any(axis=1),
        )
        for name, faulty in zip(_ROW_FAULTS, faults, strict=True):
            found[name].append(rows.start + np.flatnonzero(settled & faulty))
        on_progress(Progress(f"{side} rows", rows.stop, count))
    return {name: np.concatenate(pieces) for name, pieces in found.items()}


def check_structure(cache: FeatureCache) -> list[str]:
    """What is wrong with everything but the features, in words; nothing for a sound cache, finished or not."""
    # Of arrays of other lengths nothing else can be said.
    return _wrong_arrays(cache) or [
        *_wrong_values(cache),
        *_wrong_reasons(cache),
        *_wrong_projections(cache),
        *_wrong_hashes(cache),
    ]


def _wrong_arrays(cache: FeatureCache) -> list[str]:
    images, texts = len(cache.image_ids), len(cache.captions)
    columns = {"image/file": images, "image/split": images, "text/id": texts, "text/image": texts}
    kinds = {"image/split": "uint8", "text/image": "int64"}
    expected = {name: ((count,), kinds.get(name, "object")) for name, count in columns.items()}
    expected |= raw_arrays(cache.contents)
    faults = []
    with legible(cache.path), h5py.File(cache.path, "r", locking=False) as file:
        for name, (shape, kind) in expected.items():
            found, asked = file[name], np.dtype(kind)
            if (found.shape, found.dtype) != (shape, asked):
                faults.append(f"{name} is {found.dtype} {found.shape}; expected {asked} {shape}")
    return faults


def _wrong_values(cache: FeatureCache) -> list[str]:
    images = len(cache.image_ids)
    faults = [
        *_outside("image/state", cache.image_states, allowed=range(UNUSABLE + 1)),
        *_outside("text/state", cache.text_states, allowed=range(DONE + 1)),
        *_outside("image/split", cache.image_splits, allowed=range(len(SPLITS))),
        *_outside("text/image", cache.caption_images, allowed=range(images)),
        *_outside("text/tokens", cache.tokens[cache.text_states == DONE], allowed=range(1, 2**15)),
    ]
    faults += [f"{side}/micro_batch is {size}" for side, size in cache.micro_batch.items() if size < 0]
    repeated = images - len(set(cache.image_ids))
    if repeated:
        faults.append(f"image/id: {repeated} ids stand for more than one image")
    return faults


def _outside(name: str, values: np.ndarray, *, allowed: range) -> list[str]:
    rows = np.flatnonzero((values < allowed.start) | (values >= allowed.stop))
    if not len(rows):
        return []
    return [
        f"{name}: {len(rows)} values are not in {allowed.start} to {allowed.stop - 1}, the first of row {rows[0]}: "
        f"{values[rows[0]]}"
    ]


def _wrong_reasons(cache: FeatureCache) -> list[str]:
    faults = {"unusable without a reason": [], "done, yet with a reason to be unusable": []}
    for rows in chunks(len(cache.image_states)):
        stored = cache.stored("image", rows)
        given = stored.notes != b""
        for name, state, wrong in zip(faults, (UNUSABLE, DONE), (~given, given), strict=True):
            faults[name] += (rows.start + np.flatnonzero((stored.states == state) & wrong)).tolist()
    return [f"{len(rows)} images are {name}, the first of row {rows[0]}" for name, rows in faults.items() if rows]


def _wrong_projections(cache: FeatureCache) -> list[str]:
    faults, found = [], cache.projections
    width = found["image/weight"].shape[-1]
    shapes = {
        "image/weight": (cache.image_features.shape[1], width),
        "image/bias": (width,),
        "text/weight": (cache.text_features.shape[1], width),
        "logit_scale": (),
    }
    for name, values in found.items():
        if np.shape(values) != shapes[name]:
            faults.append(f"projection/{name} is {np.shape(values)}; expected {shapes[name]}")
        if not np.isfinite(values).all():
            faults.append(f"projection/{name} has values that are not finite")
    return faults


def _wrong_hashes(cache: FeatureCache) -> list[str]:
    faults = []
    if cache.fingerprint != cache.contents.fingerprint:
        faults.append(f"the fingerprint is {cache.fingerprint[:12]}; its inputs give {cache.contents.fingerprint[:12]}")
    # Caches that a script made of its own arrays have none.
    recorded = cache.inputs.get("annotation_sha256")
    if recorded is not None and recorded != annotation_sha256(cache):
        faults.append("ids, files, splits or captions are not those that annotation_sha256 was made of")
    return faults
