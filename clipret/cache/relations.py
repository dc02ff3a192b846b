"""What the values in a cache have to do with each other: asked on every opening, once the schema holds."""

from collections.abc import Iterator

import numpy as np

from clipret.cache.checksums import LARGEST
from clipret.cache.layout import DONE, UNUSABLE, fingerprint_of
from clipret.cache.schema import wrong_values

_SHOWN = 5


def wrong_relations(cache) -> list[str]:
    """What is wrong with the values of a FeatureCache that are in memory, in words; nothing for a sound one.

    Rows whose feature is there are looked at when they are read.
    """
    counts = {"N": len(cache.image_states), "M": len(cache.text_states)}
    columns = {
        "image/split": cache.image_splits,
        "image/state": cache.image_states,
        "text/image": cache.caption_images,
        "text/state": cache.text_states,
    }
    if cache.notes["text"]:
        columns["text/tokens"] = cache.tokens
    if cache.imported and not counts["N"]:
        # Texts without images, which they cannot be of.
        del columns["text/image"]
    faults = [fault for name, values in columns.items() for fault in wrong_values(name, values, counts=counts)]
    faults += [
        fault
        for side, size in cache.micro_batch.items()
        for fault in wrong_values(f"{side}/micro_batch", np.array([size]), counts=counts)
    ]
    return [*faults, *_wrong_rows(cache), *_wrong_projections(cache), *_wrong_fingerprint(cache)]


def wrong_reasons(states: np.ndarray, reasons: np.ndarray) -> dict[str, np.ndarray]:
    """What can be wrong with images and their reasons -> the rows (n,) with which it is; states, reasons (N,)."""
    stands = reasons != b""
    return {
        "images are unusable without a reason": np.flatnonzero((states == UNUSABLE) & ~stands),
        "images are done, yet with a reason to be unusable": np.flatnonzero((states == DONE) & stands),
    }


def _wrong_rows(cache) -> Iterator[str]:
    for side, states in (("image", cache.image_states), ("text", cache.text_states)):
        what = "images" if side == "image" else "captions"
        never = np.flatnonzero((states == DONE) & (cache.checksums[side] == 0))
        if len(never):
            yield f"{len(never)} {what} are marked done but were never written, the first of row {never[0]}"
    uncounted = np.flatnonzero((cache.text_states == DONE) & (cache.tokens == 0)) if cache.notes["text"] else ()
    if len(uncounted):
        yield f"/text/tokens: {len(uncounted)} finished captions have no token count, the first of row {uncounted[0]}"
    unusable = np.flatnonzero((cache.image_states == UNUSABLE) & (cache.checksums["image"] != 0))
    bad = unusable[cache.stored("image", unusable).mismatches()].tolist()
    if bad:
        shown = ", ".join(map(str, bad[:_SHOWN])) + (", ..." if len(bad) > _SHOWN else "")
        yield f"{len(bad)} unusable image rows are not what was written to them: {shown}"


def _wrong_projections(cache) -> Iterator[str]:
    for name, values in cache.projections.items():
        # Also false for what is not a number.
        if not (np.abs(values) <= LARGEST).all():
            yield f"/projection/{name} has values that are not finite, or beyond {LARGEST:g}"


def _wrong_fingerprint(cache) -> Iterator[str]:
    expected = fingerprint_of(cache.inputs)
    if cache.fingerprint != expected:
        yield f"the fingerprint is {cache.fingerprint[:12]}; its inputs give {expected[:12]}"
