"""Which shards a path with braces or a glob stands for."""

import glob
import itertools
import os
import re
from pathlib import Path

from braceexpand import braceexpand

from clipret.config import DatasetConfig
from clipret.datasets.base import split_code
from clipret.datasets.containers import split_container
from clipret.datasets.parsing import is_there, listed
from clipret.errors import DatasetError

_MOST_SHARDS = 100_000
_RANGE = re.compile(r"\{(-?\d{1,20})\.\.(-?\d{1,20})(?:\.\.-?\d+)?\}")
_EXPECTED = "expected the path of a .tar, a glob as data/*.tar, or a range as data/{00000..00012}.tar"


def find_shards(config: DatasetConfig) -> list[Path]:
    """The tar files that config.dataset stands for, in the order of the braces; those of one glob by their names.

    Raises DatasetError when the pattern is broken, stands for nothing, or for shards that are not there or not .tar.
    """
    pattern, base = config.dataset, config.root or Path()
    shards = []
    for path in [pattern] if is_there(base / pattern) else _without_braces(pattern):
        if glob.has_magic(path) and not is_there(base / path):
            # As a text: Path.glob takes no absolute pattern.
            matches = sorted(map(Path, glob.glob(str(base / path), recursive=True)))  # noqa: PTH207
            if not matches:
                raise DatasetError(f"there is no shard {base / path}; {_EXPECTED}.")
            shards += matches
        else:
            shards.append(base / path)
    _require_shards(shards, pattern)
    return shards


def common_folder(shards: list[Path]) -> Path:
    """The folder that all shards are below."""
    if len({shard.is_absolute() for shard in shards}) > 1:
        raise DatasetError(f"{shards[0]} and other shards mix absolute and relative paths; use one kind.")
    root = Path(os.path.commonpath([shard.parent for shard in shards]))
    inside = [shard for shard in shards if ".tar/" in shard.relative_to(root).as_posix()]
    if inside:
        raise DatasetError(
            f"{len(inside):,} shards are in folders that are called .tar themselves: {listed(inside)}; rename these."
        )
    return root


def shards_name(config: DatasetConfig, root: Path) -> str:
    """A name for the data set: of its files up to what tells them apart, else of their folder."""
    name = re.split(r"[.{*?\[]", Path(config.dataset).name)[0].rstrip("-_")
    return name or root.resolve().name or "shards"


def named_splits(files: list[str]) -> tuple[list[int] | None, list[str]]:
    """The splits that the names of the shards tell, all of them and more than one, and their words; else None."""
    shards = [split_container(file)[0] for file in files]
    word_of = {shard: _split_in(shard) for shard in dict.fromkeys(shards)}
    code_of = {shard: None if word is None else split_code(word) for shard, word in word_of.items()}
    codes = set(code_of.values())
    if None in codes or len(codes) < 2:
        return None, []
    return [code_of[shard] for shard in shards], list(word_of.values())


def _without_braces(pattern: str) -> list[str]:
    # The library writes every range out before it gives the first.
    wide = any(abs(int(last) - int(first)) >= _MOST_SHARDS for first, last in _RANGE.findall(pattern))
    try:
        paths = [] if wide else list(itertools.islice(braceexpand(pattern), _MOST_SHARDS + 1))
    except (ValueError, RecursionError):
        raise DatasetError(f"{pattern}: its braces do not fit together; {_EXPECTED}.") from None
    if wide or len(paths) > _MOST_SHARDS:
        raise DatasetError(f"{pattern} matches more than {_MOST_SHARDS:,} shards; {_EXPECTED}.")
    return paths


def _require_shards(shards: list[Path], pattern: str) -> None:
    others = [shard for shard in shards if shard.suffix != ".tar"]
    if others:
        packed = " (images are read from anywhere in a shard, so decompress it first)" if ".tar." in str(others) else ""
        raise DatasetError(f"{listed(others)}: not a .tar by its name{packed}; {_EXPECTED}.")
    missing = [shard for shard in shards if not is_there(shard)]
    if missing:
        raise DatasetError(
            f"{len(missing):,} of {len(shards):,} shards of {pattern} are not there: {listed(missing)}; fetch them, or "
            f"leave them out of the pattern."
        )
    if len(set(shards)) < len(shards):
        raise DatasetError(f"{pattern} matches the same shard more than once; {_EXPECTED}.")


def _split_in(shard: str) -> str | None:
    """The split in the name of a shard, or of the folder that it is in: the first word of either."""
    words = (re.split(r"[-_.\d]", part)[0] for part in reversed(shard.split("/")))
    return next((word for word in words if split_code(word) is not None), None)
