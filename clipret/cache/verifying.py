"""Verifying a cache: whether every row matches its checksum, and whether its ids and captions are consistent."""

import numpy as np

from clipret.cache.assembling import chunks
from clipret.cache.layout import PENDING, UNUSABLE
from clipret.cache.reading import FeatureCache
from clipret.cache.taps import SUM
from clipret.cache.texts import ImpliedTexts
from clipret.machine.progress import Progress, ProgressCallback, silent

_ROW_FAULTS = ("not what was written", "marked done, never written", "not finite", "unusable, yet with a feature")


def check_rows(cache: FeatureCache, side: str, *, on_progress: ProgressCallback = silent) -> dict[str, np.ndarray]:
    """Check every row of one side that is not pending. Holds a few thousand rows in memory at a time.

    on_progress  called with phase "image rows" or "text rows"

    Returns fault -> rows (n,) int64, ascending, that have it.
    """
    rows_of: dict[str, list[np.ndarray]] = {name: [] for name in _ROW_FAULTS}
    count = len(cache.checksums[side])
    for rows in chunks(count):
        stored = cache.stored(side, rows)
        # A pending row may be partly written.
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
            rows_of[name].append(rows.start + np.flatnonzero(settled & faulty))
        on_progress(Progress(f"{side} rows", rows.stop, count))
    if side in cache.taps:
        rows_of |= _check_tokens(cache, side, on_progress=on_progress)
    # Imported features may be of one side only.
    none = np.zeros(0, dtype=np.int64)
    return {name: np.concatenate([none, *pieces]) for name, pieces in rows_of.items()}


def _check_tokens(cache: FeatureCache, side: str, *, on_progress: ProgressCallback) -> dict[str, list[np.ndarray]]:
    states = cache.image_states if side == "image" else cache.text_states
    settled, wrong = np.flatnonzero(states != PENDING), []
    for chunk in cache.taps[side].chunks(settled):
        rows = settled[chunk]
        sums = cache.stored_tokens(side, rows).sums()
        wrong.append(rows[sums != cache.stored(side, rows).notes[SUM]])
        on_progress(Progress(f"tokens of {side} rows", int(rows[-1]) + 1, len(states)))
    return {"with tokens that were not what was written": wrong}


def check_texts(cache: FeatureCache) -> list[str]:
    """Messages on what is wrong with ids and annotations, which are not read when a cache is opened."""
    faults = []
    implied = isinstance(cache.image_ids, ImpliedTexts)
    repeated = 0 if implied else len(cache.image_ids) - len(set(cache.image_ids))
    if repeated:
        faults.append(f"/image/id: {repeated} ids are used by more than one image")
    # Caches made by a script from its own arrays have none.
    recorded = cache.inputs.get("annotation_sha256")
    if recorded is not None and recorded != cache.annotations.annotation_sha256:
        faults.append("ids, files, splits or captions are not those that annotation_sha256 was made of")
    return faults
