"""What a cache is made of, in one table, and whether a file is made of it.

Checked for every file that is opened, before any array is read: names, types, shapes, and that each array lies in the
file itself, in one piece, and is no longer than the file.
"""

from collections.abc import Iterator
from typing import NamedTuple

import h5py
import numpy as np

from clipret.cache.layout import DIGEST_BYTES, PACKED, PROBLEM_BYTES, RAW, TEXT_COLUMNS
from clipret.config import SPLITS

TEXT = "text"
# What a text leaves in its array: its length, and where it is in the file.
_REFERENCE_BYTES = 16


class Array(NamedTuple):
    """shape: symbols (N images, M captions, D feature widths, E embedding width) and numbers; types: those it may have.

    values    the smallest, and what all are below: a number or a symbol
    virtual   may lie in the shards beside the cache
    optional  may be missing
    spare     may be missing of imported features
    imported  only imported features have it, and may lack it
    """

    shape: tuple[str | int, ...]
    types: tuple[str, ...]
    values: tuple[int, int | str] | None = None
    virtual: bool = False
    optional: bool = False
    spare: bool = False
    imported: bool = False

    def may_lack(self, *, imported: bool) -> bool:
        """Whether a cache of imported features, or another, may be without it."""
        return self.optional or self.imported or (self.spare and imported)


_FEATURES = ("float16", "float32")
_TOKENS = ("float16", "int8")
# The arrays of a side's tokens that a cache has together, if it has any.
_TAPS = {"image": ("image/tap", "image/tap_sum"), "text": ("text/tap", "text/tap_sum", "text/tap_starts")}


def _packed(name: str, symbol: str) -> dict[str, Array]:
    """The two arrays that texts of imported features lie in."""
    data, ends = (f"{name}{ending}" for ending in PACKED)
    return {
        data: Array((f"L_{name}",), ("uint8",), imported=True),
        ends: Array((symbol,), ("int64",), imported=True),
    }


ARRAYS = {
    "image/id": Array(("N",), (TEXT,), spare=True),
    **_packed("image/id", "N"),
    "image/file": Array(("N",), (TEXT,), spare=True),
    **_packed("image/file", "N"),
    "image/split": Array(("N",), ("uint8",), values=(0, len(SPLITS))),
    "image/features": Array(("N", "D_image"), _FEATURES, virtual=True),
    "image/tap": Array(("N", "T_image", "W_image"), _TOKENS, optional=True),
    "image/tap_scale": Array(("N", "T_image"), ("float32",), optional=True),
    "image/tap_sum": Array(("N",), ("uint32",), optional=True),
    "image/problem": Array(("N",), (f"S{PROBLEM_BYTES}",), spare=True),
    "image/sha256": Array(("N", 2, DIGEST_BYTES), ("uint8",), spare=True),
    "image/single_colour": Array(("N", 2), ("uint8",), spare=True),
    "image/checksum": Array(("N",), ("uint32",)),
    "image/state": Array(("N",), ("uint8",), values=(0, 3)),
    "image/micro_batch": Array((2,), ("int32",), values=(0, 1 << 31)),
    "text/id": Array(("M",), (TEXT,), spare=True),
    **_packed("text/id", "M"),
    "text/caption": Array(("M",), (TEXT,), spare=True),
    **_packed("text/caption", "M"),
    "text/image": Array(("M",), ("int64",), values=(0, "N")),
    "text/features": Array(("M", "D_text"), _FEATURES, virtual=True),
    "text/tap": Array(("L_text", "W_text"), _TOKENS, optional=True),
    "text/tap_scale": Array(("L_text",), ("float32",), optional=True),
    "text/tap_starts": Array(("L_starts",), ("int64",), optional=True),
    "text/tap_sum": Array(("M",), ("uint32",), optional=True),
    "text/tokens": Array(("M", 2), ("int16",), values=(0, 1 << 15), spare=True),
    "text/checksum": Array(("M",), ("uint32",)),
    "text/state": Array(("M",), ("uint8",), values=(0, 2)),
    "text/micro_batch": Array((2,), ("int32",), values=(0, 1 << 31)),
    "projection/image/weight": Array(("D_image", "E"), ("float32",), optional=True),
    "projection/image/bias": Array(("E",), ("float32",), optional=True),
    "projection/image/block": Array(("L_image_block",), ("float32",), optional=True),
    "projection/text/block": Array(("L_text_block",), ("float32",), optional=True),
    "projection/text/weight": Array(("D_text", "E"), ("float32",), optional=True),
    "projection/text/bias": Array(("E",), ("float32",), optional=True),
    "projection/logit_scale": Array((), ("float32",)),
}


def wrong_objects(file: h5py.File, *, size: int, shard: bool, imported: bool = False) -> list[str]:
    """What is wrong with the links and arrays of a file of `size` bytes, in words; nothing for a sound one."""
    table = {
        name: array for name, array in ARRAYS.items() if (not shard or name in RAW) and (imported or not array.imported)
    }
    faults = _wrong_links(file, table, imported=imported)
    if faults:
        return faults
    symbols: dict[str, int] = {}
    for name, array in table.items():
        if name in file:
            faults += [
                f"/{name} {fault}" for fault in _wrong_array(file, name, array=array, size=size, symbols=symbols)
            ]
    empty = [what for symbol, what in (("N", "images"), ("M", "captions")) if not shard and symbols.get(symbol) == 0]
    if imported and not faults:
        faults, empty = list(_wrong_texts(file)), empty if len(empty) == 2 else []
    if not shard:
        faults += _missing_taps(file)
    if faults or empty:
        return faults or [f"it holds no {what}" for what in empty]
    if not shard and (missing := _missing_weights(file["projection"])):
        return missing
    image, text = (file[f"{side}/features"].dtype for side in ("image", "text"))
    return [] if image == text else [f"/text/features is {text}, /image/features is {image}"]


def _missing_taps(file: h5py.File) -> Iterator[str]:
    """All that tokens need is there, or nothing of it."""
    for side, names in _TAPS.items():
        together = (*names, f"projection/{side}/block")
        here = [name for name in (*together, f"{side}/tap_scale") if name in file]
        for name in together if here else ():
            if name not in file:
                yield f"it has /{here[0]} without /{name}"


def _wrong_texts(file: h5py.File) -> Iterator[str]:
    """Texts are HDF5's strings, packed in two arrays, or not there."""
    for name in TEXT_COLUMNS.values():
        here = [f"{name}{ending}" in file for ending in PACKED]
        if any(here) != all(here) or (any(here) and name in file):
            yield f"the texts of /{name} are not whole"


def _missing_weights(group: h5py.Group) -> list[str]:
    """Either both sides have a projection, or, as of two encoders that were never aligned, neither has."""
    sides = {side for side in ("image", "text") if f"{side}/weight" in group}
    if len(sides) == 2:
        return []
    biases = [side for side in ("image", "text") if f"{side}/bias" in group and side not in sides]
    return [
        *(f"it has /projection/{side}/bias without a weight" for side in biases),
        *(f"it has a projection of the {side} side alone" for side in sides),
    ]


def _wrong_links(file: h5py.File, table: dict[str, Array], *, imported: bool) -> list[str]:
    """Every group and array is the file's own, all that have to be are there, and nothing else is."""
    groups = {name[:at] for name in table for at, letter in enumerate(name) if letter == "/"}
    lacking = {name for name, array in table.items() if array.may_lack(imported=imported)}
    # A group may be missing where all that it has may.
    lacking |= {group for group in groups if all(name in lacking for name in table if name.startswith(f"{group}/"))}
    faults = []
    for group in ["", *sorted(groups)]:
        if group in lacking and group not in file:
            continue
        inside = {name for name in (*table, *groups) if name.rpartition("/")[0] == group}
        where = file[group] if group else file
        for name in sorted(inside):
            faults += _wrong_link(where, name, group=name in groups, optional=name in lacking)
        if faults:
            return faults
        unknown = sorted(key for key in where if f"{group}/{key}".lstrip("/") not in inside)
        if unknown:
            return [f"it holds /{f'{group}/{unknown[0]}'.lstrip('/')}, which no cache has"]
    return []


def _wrong_link(where: h5py.Group, name: str, *, group: bool, optional: bool) -> Iterator[str]:
    key = name.rpartition("/")[2].encode()
    if not where.id.links.exists(key):
        if not optional:
            yield f"it lacks /{name}"
    elif where.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        yield f"/{name} is a link to elsewhere"
    elif not isinstance(h5py.h5o.open(where.id, key), h5py.h5g.GroupID if group else h5py.h5d.DatasetID):
        yield f"/{name} is not {'a group' if group else 'an array'}"


def _wrong_array(file: h5py.File, name: str, *, array: Array, size: int, symbols: dict[str, int]) -> list[str]:
    dataset = file[name]
    kind, shape = _type(dataset), dataset.shape
    expected = tuple(
        symbols.get(side, length) if isinstance(side, str) else side
        for side, length in zip(array.shape, shape or (), strict=False)
    )
    if kind not in array.types or shape is None or len(shape) != len(array.shape) or shape != expected:
        asked = ", ".join(str(symbols.get(side, side)) for side in array.shape) + ("," if len(array.shape) == 1 else "")
        return [f"is {kind} {shape}; expected {' or '.join(array.types)} ({asked})"]
    symbols |= {side: length for side, length in zip(array.shape, shape, strict=True) if isinstance(side, str)}
    creation = dataset.id.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL and array.virtual:
        return []
    if creation.get_layout() != h5py.h5d.CONTIGUOUS or creation.get_nfilters() or creation.get_external_count():
        return ["is not stored in one piece in the file itself"]
    offset, stored = dataset.id.get_offset(), dataset.id.get_storage_size()
    needed = (_REFERENCE_BYTES if kind == TEXT else dataset.dtype.itemsize) * dataset.size
    if needed and (offset is None or stored != needed or offset + needed > size):
        return [f"declares {shape[0] if shape else 1:,} rows, more than fit in the file"]
    return []


def _type(dataset: h5py.Dataset) -> str:
    try:
        kind = dataset.dtype
    except (TypeError, ValueError):
        return "of a type that numpy does not have"
    text = h5py.check_string_dtype(kind)
    if text is not None and text.length is None:
        return TEXT if text.encoding == "utf-8" else "ascii text"
    if kind.kind == "S":
        return f"S{kind.itemsize}"
    return str(kind) if h5py.check_dtype(ref=kind) is None and h5py.check_dtype(vlen=kind) is None else "references"


def wrong_values(name: str, values: np.ndarray, *, counts: dict[str, int]) -> list[str]:
    """Values of an array that are outside of what the table allows, in words; counts: N and M."""
    low, above = ARRAYS[name].values
    above = counts.get(above, above)
    rows = np.flatnonzero((values < low) | (values >= above))
    if not len(rows):
        return []
    return [
        f"/{name}: {len(rows)} values are not in {low} to {above - 1}, the first of row {rows[0]}: {values[rows[0]]}"
    ]
