"""Flickr30k's files, which only their owners give away: what to fetch and where to put it, and whether it is whole."""

import fnmatch
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from clipret.config import DownloadConfig
from clipret.datasets.downloads.archives import Selection, unpack
from clipret.datasets.downloads.watch import Watch, alone
from clipret.datasets.karpathy import find_karpathy
from clipret.errors import DatasetError, UsageError

IMAGES = 31_783
IMAGE_FOLDER = "flickr30k-images"
SPLIT_FILE = "dataset_flickr30k.json"
TOKEN_FILE = "results_20130124.token"
# Copies of the archive hold files ._NUMBER.jpg too, which are no images.
_IMAGE_NAME = "[0-9]*.jpg"


@dataclass(frozen=True)
class _Bundle:
    """An archive as its owners give it: its names, the files wanted of it, and whether they are images."""

    names: tuple[str, ...]
    selection: Selection
    images: bool = False


_BUNDLES = (
    _Bundle(("caption_datasets.zip",), Selection(SPLIT_FILE, into="")),
    _Bundle(("flickr30k.tar.gz", "flickr30k.tar"), Selection(TOKEN_FILE, into="")),
    _Bundle(
        ("flickr30k-images.tar.gz", "flickr30k-images.tar"), Selection(_IMAGE_NAME, into=IMAGE_FOLDER), images=True
    ),
)


def gather_flickr30k(config: DownloadConfig, *, watch: Watch) -> dict:
    """Unpack the owners' archives that lie in config.folder, then see what of the data set is there. Fetches nothing.

    The archives are the user's, and are left where they are.

    Returns whole (31,783 images and a file with captions are there; with config.annotations_only the latter), images
    (how many there are), annotations (the files with captions, relative to the folder), files (the archives unpacked,
    as download tells them), remarks and instructions: what to fetch and where to put it, when it is not whole. Raises
    UsageError when config.base_url is set, and DatasetError when the folder is a file, an archive is damaged or unsafe,
    or the disk refuses.
    """
    if config.base_url is not None:
        raise UsageError("--base-url does not apply to flickr30k: clipret downloads none of its files.")
    root = config.folder
    if root.exists() and not root.is_dir():
        raise DatasetError(f"{root} is a file; expected the folder that holds Flickr30k, or is to hold it.")
    files = []
    if bundles := _to_unpack(root, config.annotations_only):
        with alone(root):
            files = [_unpacked(path, bundle, watch=watch) for path, bundle in bundles]
    images, annotations = _image_count(root), _annotations(root)
    lacking = []
    if images < IMAGES and not config.annotations_only:
        lacking.append(f"{IMAGES - images:,} of {IMAGES:,} images")
    if not annotations:
        lacking.append(f"{SPLIT_FILE} or {TOKEN_FILE}")
    return {
        "whole": not lacking,
        "images": images,
        "annotations": annotations,
        "files": files,
        "remarks": [],
        "instructions": _instructions(root, lacking) if lacking else [],
    }


def _to_unpack(root: Path, annotations_only: bool) -> list[tuple[Path, _Bundle]]:
    """The archives in the folder whose files are not there yet."""
    there = set(_annotations(root))
    bundles = []
    for bundle in _BUNDLES:
        if bundle.images:
            needed = not annotations_only and _image_count(root) < IMAGES
        else:
            needed = not any(Path(name).name == bundle.selection.pattern for name in there)
        paths = [root / name for name in bundle.names if (root / name).is_file()]
        bundles += [(path, bundle) for path in paths[:1] if needed]
    return bundles


def _unpacked(path: Path, bundle: _Bundle, *, watch: Watch) -> dict:
    _, written = unpack(path, path.parent, selection=bundle.selection, watch=watch)
    return {"name": path.name, "bytes": path.stat().st_size, "state": "already there", "unpacked": written}


def _image_count(root: Path) -> int:
    folder = root / IMAGE_FOLDER
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(fnmatch.fnmatchcase(entry.name, _IMAGE_NAME) and entry.is_file() for entry in entries)


def _annotations(root: Path) -> list[str]:
    split, tokens = find_karpathy(root, SPLIT_FILE), root / TOKEN_FILE
    paths = [split] if split else []
    return [path.relative_to(root).as_posix() for path in paths + [tokens] * tokens.is_file()]


def _instructions(root: Path, lacking: list[str]) -> list[str]:
    return [
        f"Flickr30k in {root} lacks {' and '.join(lacking)}. Its owners give the images to those who fill in their "
        f"form, so clipret fetches none of it.",
        f"1. Fill in the form at https://shannon.cs.illinois.edu/DenotationGraph/ to get flickr30k-images.tar.gz "
        f"({IMAGES:,} JPEGs) and flickr30k.tar.gz ({TOKEN_FILE}).",
        f"2. Fetch https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip, which has Karpathy's "
        f"split file {SPLIT_FILE}.",
        f"3. Put them there: {root}/{IMAGE_FOLDER}/*.jpg and {root}/{SPLIT_FILE} (or {root}/{TOKEN_FILE}). Archives "
        f"that lie in {root} are unpacked for you.",
        f"4. See whether all is there: clipret download flickr30k --root {shlex.quote(str(root))}",
    ]
