"""The attributes of a cache or a shard: JSON that later stages and tables read, checked when a file is opened."""

import json
from collections.abc import Iterator
from typing import NamedTuple

import h5py

from clipret.cache.layout import FORMAT

SHARD_FORMAT = "shard 1"
# What stage 2 and the tables ask of the attributes, and of which type it is; the others may be missing.
INPUTS = {
    "weights_sha256": str,
    "dataset": str,
    "precision": str,
    "preprocessing": str,
    "decode": str,
    "background": str,
    "caption_clean": str,
    "prompt": str,
    "dtype": str,
}
ABOUT = {
    "model": str,
    "library": str,
    "batch_size": int,
    "context_length": int,
    "split_rule": str,
    "remarks": list,
    "command": str,
    "created": str,
}
OPTIONAL = {
    "annotation_sha256": str,
    "root": str,
    "decoding": dict | None,
    "merged_from": list,
    "blocks": dict,
    "tap_loss": dict | None,
}
_FIGURES = ("cosine", "centred_cosine")


class Attributes(NamedTuple):
    """inputs, about, fingerprint: as in FeatureCache; rows: of a shard, side -> first row and row after the last."""

    inputs: dict
    about: dict
    fingerprint: str
    rows: dict[str, list[int]] | None


def read_attributes(file: h5py.File, *, shard: bool) -> Attributes | list[str]:
    """The attributes, or what is wrong with them, in words."""
    names = {"format": None, "fingerprint": str, "inputs": dict, "about": dict} | ({"rows": dict} if shard else {})
    values, faults = {}, []
    for name, kind in names.items():
        try:
            values[name] = _attribute(file, name, kind)
        except KeyError:
            faults.append(f"attribute {name} is missing")
        except (ValueError, TypeError, RecursionError):
            faults.append(f"attribute {name} is not readable")
    if faults:
        return faults
    if values["format"] != (SHARD_FORMAT if shard else FORMAT):
        return [f"attribute format is {values['format']!r}"]
    faults = [
        *_wrong_keys("inputs", values["inputs"], asked=INPUTS),
        *_wrong_keys("about", values["about"], asked=ABOUT),
        *_wrong_about(values["about"]),
        *_wrong_rows(values.get("rows")),
    ]
    return faults or Attributes(values["inputs"], values["about"], values["fingerprint"], values.get("rows"))


def _attribute(file: h5py.File, name: str, kind: type | None) -> object:
    attribute = h5py.h5a.open(file.id, name.encode())
    if attribute.shape != ():
        raise ValueError("one value was expected")
    value = file.attrs[name]
    if kind is None:
        return value if isinstance(value, str) else int(value)
    if not isinstance(value, str):
        raise TypeError("text was expected")
    # Damage can leave half a character.
    value.encode()
    parsed = json.loads(value) if kind is dict else value
    if not isinstance(parsed, kind):
        raise TypeError("an object was expected")
    return parsed


def _wrong_keys(name: str, values: dict, *, asked: dict[str, type]) -> list[str]:
    missing = [f"attribute {name} lacks {key}" for key in asked if key not in values]
    kinds = {**asked, **OPTIONAL}
    return missing + [
        f"attribute {name} has {key} of another type"
        for key, value in values.items()
        if key in kinds and (not isinstance(value, kinds[key]) or isinstance(value, bool))
    ]


def _wrong_about(about: dict) -> Iterator[str]:
    if not all(isinstance(remark, str) for remark in about.get("remarks") or []):
        yield "attribute about has remarks of another type"
    if isinstance(about.get("batch_size"), int) and about["batch_size"] < 1:
        yield f"attribute about has batch_size {about['batch_size']}"
    if not _is_comparison(about.get("decoding"), count="images"):
        yield "attribute about has decoding of another type"
    losses = about.get("tap_loss")
    if isinstance(losses, dict) and not all(loss and _is_comparison(loss, count="rows") for loss in losses.values()):
        yield "attribute about has tap_loss of another type"


def _is_comparison(value: object, *, count: str) -> bool:
    """Whether this is what was measured between two kinds of features, or None."""
    return value is None or (
        isinstance(value, dict)
        and isinstance(value.get(count), int)
        and all(
            isinstance(value.get(name), dict)
            and all(isinstance(value[name].get(key), float | int) for key in ("mean", "min"))
            for name in _FIGURES
        )
    )


def _wrong_rows(rows: dict | None) -> Iterator[str]:
    for side in ("image", "text") if rows is not None else ():
        span = rows.get(side)
        if not (isinstance(span, list) and [type(row) for row in span] == [int, int] and 0 <= span[0] <= span[1]):
            yield f"attribute rows has no rows of side {side}"
