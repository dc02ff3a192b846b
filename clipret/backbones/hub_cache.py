"""The Hugging Face hub's cache on this machine, read as folders: no library is imported, nothing is downloaded.

Its layout: models--ORG--NAME/snapshots/REVISION/FILE, which are links to models--ORG--NAME/blobs/DIGEST, and
models--ORG--NAME/refs/main, a file that holds a revision.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from clipret.machine.files import read_file

_MOST_BYTES = 1 << 10


def hub_cache_folder() -> Path:
    """The folder in which huggingface_hub caches repositories."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return _expanded(os.environ[name])
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
    return _expanded(home) / "hub"


def cached_repositories(cache: Path) -> Iterator[tuple[str, Path]]:
    """The name (ORG/NAME) and the current snapshot folder of every model repository in a cache."""
    for folder in sorted(cache.glob("models--*")) if cache.is_dir() else ():
        snapshot = _snapshot(folder)
        if snapshot is not None:
            yield folder.name.removeprefix("models--").replace("--", "/"), snapshot


def cached_file(repository: str, names: Iterable[str], *, cache: Path) -> Path | None:
    """The first of the named files of a repository that is completely in a cache; None if none is."""
    snapshot = _snapshot(cache / f"models--{repository.replace('/', '--')}")
    paths = [snapshot / name for name in names] if snapshot else []
    # A link to a missing blob is not a file.
    return next((path for path in paths if path.is_file()), None)


def _snapshot(folder: Path) -> Path | None:
    """The snapshot of the revision in refs/main, or else the newest one."""
    snapshots = folder / "snapshots"
    try:
        revision = read_file(folder / "refs" / "main", most=_MOST_BYTES).decode().strip()
        if revision and (snapshots / revision).is_dir():
            return snapshots / revision
    except (OSError, ValueError):
        pass
    try:
        return max((path for path in snapshots.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    except (OSError, ValueError):
        return None


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()
