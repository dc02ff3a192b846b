"""Flickr30k: 31,783 photographs with five captions each; Karpathy's split, or one by a hash."""

import contextlib
from pathlib import Path

import numpy as np

from clipret.config import DATA_DIR, SPLITS, DatasetConfig
from clipret.datasets.base import RetrievalDataset, split_by_hash
from clipret.datasets.containers import container_of
from clipret.datasets.flickr30k_captions import FlickrImage, read_captions
from clipret.datasets.karpathy import FOLDERS as KARPATHY_FOLDERS
from clipret.datasets.karpathy import find_karpathy, read_karpathy
from clipret.datasets.karpathy_tables import find_karpathy_tables, read_karpathy_tables
from clipret.datasets.parsing import is_there
from clipret.errors import DatasetError

_KARPATHY = "dataset_flickr30k.json"
_CAPTION_FILES = ("results_20130124.token", "results.csv", "captions.txt", "captions.csv", "flickr30k_captions.csv")
_CAPTION_FOLDERS = ("", "flickr30k_images", "annotations", "flickr30k")
# "" last: a download of the images alone may be its own root.
_IMAGE_FOLDERS = (
    "flickr30k-images",
    "flickr30k_images/flickr30k_images",
    "flickr30k_images",
    "Images",
    "images",
    "",
)
# An image or two may be missing, and still the others are to be found.
_LOOKED_FOR = 10
# Flickr30k has as many images as these add up to; Karpathy's split leaves 769 of them out.
_SIZES = {"train": 29_783, "val": 1_000, "test": 1_000}
_HASH_RULE = "hash, about 29,783/1,000/1,000 of 31,783 images, not Karpathy's"
_FETCH = "How to get it: clipret download flickr30k; or say where it is with --root (make: ROOT=)."


def load_flickr30k(config: DatasetConfig) -> RetrievalDataset:
    """Read Flickr30k's annotations below config.root, data/flickr30k by default.

    Split karpathy: dataset_flickr30k.json, or the tables made from it, as the Hub has them, in its order and with its
    splits.

    Split hash: the captions of that file or, where it is not there, of results_20130124.token or a table made from it;
    images in the order in which they first appear. Each image's split depends on its id alone, so the sizes are only
    about those of the name.

    None, the default: karpathy where its file is there, else hash, with a remark and under the name flickr30k-hash.

    The image files are in the first of the usual folders that has one of the first ten; no image is opened.

    Raises DatasetError when a file is missing or malformed.
    """
    root = config.root or DATA_DIR / "flickr30k"
    try:
        with contextlib.suppress(FileNotFoundError):
            root.stat()
        path = find_karpathy(root, _KARPATHY)
    except OSError as error:
        raise DatasetError(f"--root {root} cannot be read: {error.strerror}.") from None
    tables = find_karpathy_tables(root) if path is None else []
    if path is None and not tables and config.split == "karpathy":
        raise DatasetError(f"Karpathy's split needs {_KARPATHY}: not in {_places(root, KARPATHY_FOLDERS)}. {_FETCH}")
    if path is None and not tables:
        return _by_captions(root, config)
    path = path or root / tables[0].file
    entries = read_karpathy_tables(tables, root=root, whole=True)[0] if tables else read_karpathy(path)
    images = [FlickrImage(entry.file, [(str(number), text) for number, text in entry.captions]) for entry in entries]
    if config.split == "hash":
        return _by_hash(root, images, path=path)
    splits = np.array([SPLITS.index(entry.split) for entry in entries], dtype=np.uint8)
    rest = splits == SPLITS.index("restval")
    joined = config.restval and rest.any()
    if joined:
        splits[rest] = SPLITS.index("train")
    rule = "Karpathy's split" + (", restval joined to train" if joined else "")
    return _dataset("flickr30k", root, path=path, images=images, splits=splits, rule=rule)


def _by_captions(root: Path, config: DatasetConfig) -> RetrievalDataset:
    paths = [root / folder / name for name in _CAPTION_FILES for folder in _CAPTION_FOLDERS]
    path = next((path for path in paths if is_there(path)), None)
    if path is None:
        raise DatasetError(
            f"there are no captions of Flickr30k: looked for {_KARPATHY} in {_places(root, KARPATHY_FOLDERS)}, and for "
            f"{', '.join(_CAPTION_FILES)} in {_places(root, _CAPTION_FOLDERS)}. {_FETCH}"
        )
    images, remarks = read_captions(path)
    if config.split is None:
        remarks = (f"{_KARPATHY} is not there: the split is by a hash, of the images of {path.name}", *remarks)
    return _by_hash(root, images, path=path, remarks=remarks)


def _by_hash(root: Path, images: list[FlickrImage], *, path: Path, remarks=()) -> RetrievalDataset:
    fractions = {name: size / sum(_SIZES.values()) for name, size in _SIZES.items()}
    splits = split_by_hash([image.id for image in images], fractions=fractions)
    return _dataset("flickr30k-hash", root, path=path, images=images, splits=splits, rule=_HASH_RULE, remarks=remarks)


def _dataset(name: str, root: Path, *, path: Path, images: list[FlickrImage], splits, rule: str, remarks=()):
    nameless = [row for row, image in enumerate(images) if not image.id]
    if nameless:
        raise DatasetError(f"{path}: images[{nameless[0]}] has no file name; expected one as 1000092795.jpg.")
    ids = [number for image in images for number, _ in image.captions]
    return RetrievalDataset(
        name=name,
        root=root,
        image_ids=[image.id for image in images],
        image_files=_find_files(root, images),
        image_splits=splits,
        captions=[text for image in images for _, text in image.captions],
        caption_ids=None if None in ids else ids,
        caption_images=np.repeat(np.arange(len(images)), [len(image.captions) for image in images]),
        split_rule=rule,
        remarks=tuple(remarks),
    )


def _find_files(root: Path, images: list[FlickrImage]) -> list[str]:
    """The files below root, in the first folder that has any of the first few; the published folder when none has."""
    first = [image.file for image in images[:_LOOKED_FOR]]
    folders = (folder for folder in _IMAGE_FOLDERS if any(is_there(root / folder / file) for file in first))
    folder = next(folders, None)
    prefix = {None: f"{_IMAGE_FOLDERS[0]}/", "": ""}.get(folder, f"{folder}/")
    return [image.file if container_of(image.file) else f"{prefix}{image.file}" for image in images]


def _places(root: Path, folders: tuple[str, ...]) -> str:
    return f"{root} and its {', '.join(filter(None, folders))}"
