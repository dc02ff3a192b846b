"""The rows that each of several processes writes, and the paths of their files, called shards."""

import re
from dataclasses import dataclass
from pathlib import Path

PART_NAME = re.compile(r"\d+-of-(\d+)\.h5")


@dataclass(frozen=True)
class Part:
    """The rows of process `index` of `count`.

    rows  image, text -> range of rows; the parts of a cache are consecutive and cover all rows
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
    """The number of processes whose shards of the cache at `path` exist: usually one number; empty without shards."""
    return {count for count, _ in shards(path)}


def shards(path: Path) -> list[tuple[int, Path]]:
    """The existing shards of the cache at `path`: (number of parts, path of the shard)."""
    folder = shards_folder(path)
    names = ((PART_NAME.fullmatch(entry.name), entry) for entry in folder.iterdir()) if folder.is_dir() else ()
    return [(int(match[1]), entry) for match, entry in names if match]
