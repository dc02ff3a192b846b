"""Which rows one of several processes writes, and the file that it writes them to: a shard."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import h5py

from clipret.cache.layout import RAW, SIDES, legible
from clipret.errors import CacheFormatError, CacheMismatchError

SHARD_FORMAT = "shard 1"
_NAME = re.compile(r"\d+-of-(\d+)\.h5")


@dataclass(frozen=True)
class Part:
    """The rows of process `index` of `count`.

    rows  image, text -> range of rows; the parts of a cache follow each other and leave no row out
    """

    index: int
    count: int
    rows: dict[str, range]


def shards_folder(path: Path) -> Path:
    """The folder of the shards of the cache at `path`."""
    return path.with_name(path.name + ".shards")


def shard_path(path: Path, part: Part) -> Path:
    """The shard of a part of the cache at `path`."""
    return shards_folder(path) / f"{part.index}-of-{part.count}.h5"


def found_parts(path: Path) -> set[int]:
    """How many processes the shards that are there of the cache at `path` were written by: one number, or none."""
    return {count for count, _ in _shards(path)}


def found_about(path: Path) -> dict | None:
    """The `about` of the shards that are there of the cache at `path`, of any of them; None without shards.

    Says the batch size, by which the parts are cut, before a part's own shard can be opened.
    """
    for _, shard in sorted(_shards(path)):
        return json.loads(read_head(shard)["about"])
    return None


def read_head(shard: Path) -> dict:
    """Attributes of a shard; raises CacheFormatError when the file is none."""
    with legible(shard), h5py.File(shard, "r", locking=False) as file:
        head = dict(file.attrs)
        whole = all(name in file for name in RAW)
    if not whole or head.get("format") != SHARD_FORMAT or not {"fingerprint", "inputs", "about", "rows"} <= set(head):
        raise CacheFormatError(f"{shard} is not a shard of this clipret ({SHARD_FORMAT}); delete it and extract again.")
    return head


def require_part(shard: Path, part: Part) -> None:
    """Raise CacheMismatchError unless the file at `shard` holds the rows of `part`."""
    found = json.loads(read_head(shard)["rows"])
    for side in SIDES:
        asked = [part.rows[side].start, part.rows[side].stop]
        if found[side] != asked:
            raise CacheMismatchError(
                f"{shard} holds the {side} rows {found[side][0]} to {found[side][1] - 1}, asked for {asked[0]} to "
                f"{asked[1] - 1}; go on with the batch size it was begun with, or delete {shard.parent}."
            )


def _shards(path: Path) -> list[tuple[int, Path]]:
    folder = shards_folder(path)
    names = ((_NAME.fullmatch(entry.name), entry) for entry in folder.iterdir()) if folder.is_dir() else ()
    return [(int(match[1]), entry) for match, entry in names if match]
