"""Opening a cache or a shard. Nothing in it is trusted before its checksums and its schema are checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py

from clipret.cache.attributes import SHARD_FORMAT, Attributes, read_attributes
from clipret.cache.heaps import are_heaps_readable
from clipret.cache.layout import IMPORTED, RAW, SIDES, legible
from clipret.cache.parts import PART_NAME, Part, shards, shards_folder
from clipret.cache.raw import Place, Segment
from clipret.cache.schema import wrong_objects
from clipret.cache.seal import Seal, require_sealed
from clipret.cache.taps import Tap, taps_in, wrong_taps
from clipret.errors import CacheDamagedError, CacheError, CacheFormatError, CacheMismatchError

_LAST_BYTES = 1 << 18


@dataclass(frozen=True)
class Opened:
    """A file with valid checksums and schema; places: name of a raw array -> where it lies; taps: side -> its Tap."""

    file: h5py.File
    attributes: Attributes
    places: dict[str, Place]
    taps: dict[str, Tap]


@contextmanager
def opened_file(path: Path, *, shard: bool = False) -> Iterator[Opened]:
    """The cache or shard at `path`, open for reading.

    Raises CacheError when it or a shard that it refers to is missing, CacheFormatError when it is another kind of file,
    CacheDamagedError when its checksums do not match.
    """
    seal = require_sealed(path)
    with legible(path), h5py.File(path, "r", locking=False) as file:
        yield _checked(path, file, seal=seal, shard=shard)


def require_part(path: Path, attributes: Attributes, part: Part) -> None:
    """Raise CacheMismatchError unless the shard at `path` holds the rows of `part`."""
    for side in SIDES:
        first, end = attributes.rows[side]
        asked = part.rows[side]
        if (first, end) != (asked.start, asked.stop):
            raise CacheMismatchError(
                f"{path} holds the {side} rows {first} to {end - 1}, asked for {asked.start} to {asked.stop - 1}; go "
                f"on with the batch size it was begun with, or delete {path.parent}."
            )


def found_about(path: Path) -> dict | None:
    """The `about` of any existing shard of the cache at `path`; None when there are no shards.

    It gives the batch size, which decides the parts, before a part's own shard can be opened.
    """
    for _, shard in sorted(shards(path)):
        with opened_file(shard, shard=True) as opened:
            return opened.attributes.about
    return None


def _checked(path: Path, file: h5py.File, *, seal: Seal, shard: bool) -> Opened:
    with path.open("rb", 0) as plain:
        # The texts of attributes are written last, and so lie at the end of one of the columns.
        ends = [(max(extent.start, extent.stop - _LAST_BYTES), extent.stop) for extent in seal.checked]
        if not all(are_heaps_readable(plain.fileno(), start, stop) for start, stop in ends):
            raise CacheDamagedError(path, ["it has texts without an end"], command=seal.command)
    attributes = read_attributes(file, shard=shard)
    if (str(file.attrs.get("format")) == SHARD_FORMAT) != shard:
        expected = f"a shard of this clipret ({SHARD_FORMAT})" if shard else "a cache but a shard of one"
        raise CacheFormatError(f"{path} is not {expected}; delete it and extract again.")
    faults = attributes if isinstance(attributes, list) else []
    faults = faults or wrong_objects(
        file, size=path.stat().st_size, shard=shard, imported=not faults and IMPORTED in attributes.inputs
    )
    if faults:
        raise CacheDamagedError(path, faults, command=seal.command)
    spans = attributes.rows or {}
    faults = [
        f"attribute rows says {span[0]} to {span[1]} of side {side}, of which it has {len(file[side]['state'])}"
        for side, span in spans.items()
        if side in SIDES and span[1] - span[0] != len(file[side]["state"])
    ]
    if faults:
        raise CacheDamagedError(path, faults, command=seal.command)
    places = {name: _place(path, file[name], attributes=attributes) for name in RAW if name in file}
    for name, place in places.items():
        if len(place.segments) == 1 and place.segments[0].path == path and place.segments[0].rows:
            start = place.segments[0].offset
            extent = seal.arrays.get(name)
            if extent is None or (extent.start, extent.stop) != (start, start + place.size):
                raise CacheDamagedError(path, [f"/{name} is not where the first block says"], command=seal.command)
    taps = taps_in(file, places)
    counts = {side: places[f"{side}/state"].shape[0] for side in SIDES}
    if faults := list(wrong_taps(places, taps, counts=counts)):
        raise CacheDamagedError(path, faults, command=seal.command)
    return Opened(file, attributes, places, taps)


def _place(path: Path, dataset: h5py.Dataset, *, attributes: Attributes) -> Place:
    if dataset.is_virtual:
        return Place(dataset.dtype, dataset.shape, _segments(path, dataset, fingerprint=attributes.fingerprint))
    # None for an array without rows.
    offset = dataset.id.get_offset() or 0
    return Place(dataset.dtype, dataset.shape, (Segment(path, offset, range(len(dataset))),))


def _segments(path: Path, dataset: h5py.Dataset, *, fingerprint: str) -> tuple[Segment, ...]:
    """Where the rows lie that a cache has left in its shards. Each shard is opened and checked."""
    segments = []
    for source in dataset.virtual_sources():
        first, last = source.vspace.get_select_bounds()
        rows = range(first[0], last[0] + 1)
        # HDF5 doubles percent signs, as a single one would start a pattern.
        shard = _own_shard(path, source.file_name.replace("%%", "%"), array=dataset.name)
        if not shard.is_file():
            raise CacheError(
                f"{shard} is missing: it holds rows {rows.start} to {rows.stop - 1} of {dataset.name} of {path}; "
                f"put it back there, or delete {path} and extract again."
            )
        with opened_file(shard, shard=True) as other:
            place = other.places[dataset.name.lstrip("/")]
            same = other.attributes.fingerprint == fingerprint
        whole = source.vspace.get_select_npoints() == len(rows) * dataset.shape[1]
        expected = (dataset.dtype, (len(rows), *dataset.shape[1:]))
        if (
            not (same and whole and source.dset_name.lstrip("/") == dataset.name.lstrip("/"))
            or (place.dtype, place.shape) != expected
        ):
            raise CacheFormatError(f"{shard} does not match {path}; delete both and extract again.")
        segments.append(Segment(shard, place.segments[0].offset, rows))
    segments.sort(key=lambda segment: segment.rows.start)
    ends = [0, *(segment.rows.stop for segment in segments)]
    if [segment.rows.start for segment in segments] != ends[:-1] or ends[-1] != len(dataset):
        raise CacheFormatError(f"{path}: parts of {dataset.name} are in no file; delete it and extract again.")
    return tuple(segments)


def _own_shard(path: Path, name: str, *, array: str) -> Path:
    """The path of the shard that a cache refers to. Raises CacheFormatError unless it is one of the cache's own."""
    folder = shards_folder(path)
    shard = path.parent / name
    if shard.parent != folder or not PART_NAME.fullmatch(shard.name) or folder.is_symlink() or shard.is_symlink():
        raise CacheFormatError(
            f"{path}: {array} refers to {name}, which is none of the cache's own shards in {folder}; nothing was read "
            f"from there. Delete the cache and extract again."
        )
    return shard
