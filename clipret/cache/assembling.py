"""Building a complete cache at once, from rows of other files."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from clipret.cache.access import explained, new_file, require_room
from clipret.cache.checksums import Rows, require_whole
from clipret.cache.creating import needed_bytes, raw_arrays, write_structure
from clipret.cache.layout import CacheContents
from clipret.cache.parts import Part
from clipret.cache.raw import Place, RawFile, Segment
from clipret.cache.reading import FeatureCache
from clipret.cache.taps import StoredTokens, write_tokens

CHUNK = 4096


def assemble(
    path: Path,
    contents: CacheContents,
    *,
    blocks: Iterable[tuple[str, range, Rows]],
    micro_batch: dict[str, int],
    parts: list[Part] | None = None,
    tokens: Iterable[tuple[str, range, StoredTokens]] = (),
) -> None:
    """Build the cache at `path`. An existing file is replaced only once the new one is complete and synced to disk.

    blocks       (side, rows, stored rows); together they cover every row of both sides
    micro_batch  as FeatureCache.micro_batch
    parts        leave the features in the shards of these parts; None: copy them into the cache
    tokens       (side, rows, their tokens); together they cover every row of the sides that have taps

    Raises CacheError when the disk is too full or the cache cannot be written. Nothing is left behind then.
    """
    with explained(path), new_file(path) as unfinished:
        require_room(path, needed=needed_bytes(contents, features=parts is None))
        extents = write_structure(unfinished, contents, shards=None if parts is None else (path, parts))
        arrays = raw_arrays(contents)
        places = {
            name: Place(
                np.dtype(arrays[name][1]),
                arrays[name][0],
                (Segment(unfinished, extent.start, range(arrays[name][0][0])),),
            )
            for name, extent in extents.items()
        }
        raw = RawFile(unfinished, places)
        try:
            for side, rows, stored in blocks:
                places = np.arange(rows.start, rows.stop)
                if parts is None:
                    raw.write(f"{side}/features", places, values=stored.features)
                for name, values in stored.notes.items():
                    raw.write(f"{side}/{name}", places, values=values)
                raw.write(f"{side}/checksum", places, values=stored.checksums)
                raw.write(f"{side}/state", places, values=stored.states)
            for side, rows, of_rows in tokens:
                places = np.arange(rows.start, rows.stop)
                write_tokens(raw, side, tap=contents.taps[side], rows=places, tokens=of_rows)
            for side, size in micro_batch.items():
                raw.write(f"{side}/micro_batch", np.arange(2), values=np.array([size, size]))
        finally:
            raw.close()


def chunks(count: int) -> Iterator[range]:
    """range(count) in pieces small enough for memory."""
    return (range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def cache_blocks(cache: FeatureCache, side: str) -> Iterator[tuple[range, Rows]]:
    """All rows of one side of a cache, in pieces. Raises CacheError when a row does not match its checksum."""
    for rows in chunks(len(cache.checksums[side])):
        stored = cache.stored(side, rows)
        require_whole(
            cache.path, side, rows=np.arange(rows.start, rows.stop), stored=stored, command=cache.about["command"]
        )
        yield rows, stored


def smallest(sizes: Iterable[int]) -> int:
    """The smallest of several micro-batch sizes, 0 (none) excepted; 0 when all are."""
    return min(filter(None, sizes), default=0)
