"""The Hugging Face hub's cache on this machine, read as folders: nothing is imported or fetched.

Its layout: models--ORG--NAME/snapshots/REVISION/FILE, which are links to models--ORG--NAME/blobs/DIGEST, and
models--ORG--NAME/refs/main, a file that holds a revision.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def hub_cache_folder() -> Path:
    """Where the hub's own library keeps what it fetched."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return _expanded(os.environ[name])
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{caches}/huggingface"
    return _expanded(home) / "hub"


def cached_repositories(cache: Path) -> Iterator[tuple[str, Path]]:
    """Every model's repository in a cache, ORG/NAME, and the folder of its newest files."""
    for folder in sorted(cache.glob("models--*")) if cache.is_dir() else ():
        snapshot = _snapshot(folder)
        if snapshot is not None:
            yield folder.name.removeprefix("models--").replace("--", "/"), snapshot


def cached_file(repository: str, names: Iterable[str], *, cache: Path) -> Path | None:
    """The first of a repository's files of these names that a cache has whole; None: none of them."""
    snapshot = _snapshot(cache / f"models--{repository.replace('/', '--')}")
    paths = [snapshot / name for name in names] if snapshot else []
    # A link whose blob is gone, or not there yet, is no file.
    return next((path for path in paths if path.is_file()), None)


def _snapshot(folder: Path) -> Path | None:
    """The files that `main` stands for, or else those that came last."""
    snapshots = folder / "snapshots"
    try:
        main = snapshots / (folder / "refs" / "main").read_text(encoding="utf-8").strip()
        if main.is_dir() and main != snapshots:
            return main
    except (OSError, ValueError):
        pass
    try:
        return max((path for path in snapshots.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    except (OSError, ValueError):
        return None


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()
