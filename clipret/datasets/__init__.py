"""Data sets: annotation files -> ordered images, captions, splits. Nothing here opens an image.

Two tables say which readers there are; `--help`, allowed values and error messages follow from their rows.

To add a data set that is asked for by its name, as `coco`:
1. one file here, as emoji.py: a function from a DatasetConfig to a RetrievalDataset;
2. one row in NAMED;
3. its test, tests/datasets/test_FILE.py, and its section in the manual.
If it can be downloaded, a function in downloads/, as downloads/coco.py, and its place in the row as `download`.

To add a form of people's own data, as a folder: the same with a row in OWN. The first row that fits a path reads it, so
a special form stands before a general one: a folder with a dataset_info.json before any folder with images.

What all data sets have in common (empty captions, paths that leave the root, the first K captions) is checked after the
reader, by `load_dataset`.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipret.config import DatasetConfig
from clipret.datasets.parsing import is_there
from clipret.datasets.table_files import ENDINGS
from clipret.errors import DatasetError, UsageError

if TYPE_CHECKING:
    from clipret.datasets.base import RetrievalDataset

__all__ = [
    "DATASETS_HELP",
    "DOWNLOADS",
    "NAMED",
    "OWN",
    "SPLITS_HELP",
    "NamedReader",
    "OwnReader",
    "load_dataset",
    "load_function",
]


@dataclass(frozen=True)
class NamedReader:
    """A data set that has a name of its own.

    load      its reader, "module:function" in this room, imported when it is used
    splits    the rules of --split that it has, its default first
    caches    names that its caches have, by which protocols recognise them; people's own data never get these names
    marks     files by which a folder is recognised as this data set
    download  "module:function" in this room, from a DownloadConfig and a Watch to a dict; None: nothing to download
    """

    load: str
    splits: tuple[str, ...]
    caches: tuple[str, ...]
    marks: tuple[str, ...] = ()
    download: str | None = None


@dataclass(frozen=True)
class OwnReader:
    """A form of people's own data.

    load      its reader, "module:function" in this room, imported when it is used
    label     what it reads, for --help and error messages
    fits      whether it reads what is at a path
    patterns  whether the path may be a pattern, so that nothing need be at the path itself
    splits    the rules of --split that it has, its default first
    """

    load: str
    label: str
    fits: Callable[[Path], bool]
    patterns: bool = False
    splits: tuple[str, ...] = ("given", "hash")


def _has_images_inside(path: Path) -> bool:
    # Loads nothing for other paths.
    if path.suffix.lower() != ".parquet" and not is_there(path, Path.is_dir):
        return False
    return load_function("embedded:fits_embedded")(path)


def _is_saved(path: Path) -> bool:
    files = ("state.json", "dataset_info.json")
    return is_there(path / "dataset_dict.json") or all(is_there(path / name) for name in files)


def _is_karpathy_table(path: Path) -> bool:
    if path.suffix.lower() not in ENDINGS and not is_there(path, Path.is_dir):
        return False
    return load_function("karpathy_tables:fits_karpathy")(path)


NAMED = {
    "emoji": NamedReader("emoji:load_emoji", splits=("hash",), caches=("emoji",)),
    "coco": NamedReader(
        "coco:load_coco",
        splits=("2017", "karpathy"),
        caches=("coco", "coco-karpathy"),
        marks=("annotations/captions_train2017.json", "annotations/captions_train2014.json", "dataset_coco.json"),
        download="downloads.coco:download_coco",
    ),
    "flickr30k": NamedReader(
        "flickr30k:load_flickr30k",
        splits=("karpathy", "hash"),
        caches=("flickr30k", "flickr30k-hash"),
        marks=("dataset_flickr30k.json", "results_20130124.token"),
        download="downloads.flickr30k:gather_flickr30k",
    ),
    "xm3600": NamedReader("xm3600:load_xm3600", splits=("test",), caches=("xm3600",)),
    "xtd10": NamedReader("xtd10:load_xtd10", splits=("test",), caches=("xtd10",), marks=("test_image_names.txt",)),
}
OWN = {
    "saved": OwnReader("saved:load_saved", "a folder of save_to_disk", fits=_is_saved),
    "karpathy": OwnReader("karpathy_tables:load_karpathy_table", "Karpathy's tables", fits=_is_karpathy_table),
    "embedded": OwnReader("embedded:load_embedded", "Parquet files with the images inside", fits=_has_images_inside),
    "folder": OwnReader("folder:load_folder", "a folder with images", fits=lambda path: is_there(path, Path.is_dir)),
    "table": OwnReader(
        "table:load_table", f"a table ({', '.join(ENDINGS)})", fits=lambda path: path.suffix.lower() in ENDINGS
    ),
    "json": OwnReader("json_files:load_json", "a .json file", fits=lambda path: path.suffix.lower() == ".json"),
    "zip": OwnReader("zipped:load_zip", "a .zip of images", fits=lambda path: path.suffix == ".zip"),
    "shards": OwnReader("shards:load_shards", ".tar shards", fits=lambda path: ".tar" in str(path), patterns=True),
}

DOWNLOADS = tuple(name for name, reader in NAMED.items() if reader.download)
_LABELS = [reader.label for reader in OWN.values()]
_FORMS = f"{', '.join(_LABELS[:-1])} or {_LABELS[-1]}"
DATASETS_HELP = f"{', '.join(NAMED)}, or the path of your own data: {_FORMS}."
_OWN_RULES = dict.fromkeys(rule for reader in OWN.values() for rule in reader.splits)
SPLITS_HELP = "Rule that splits the images: " + ", ".join(
    f"{' or '.join(rules)} ({name})"
    for name, rules in ({name: reader.splits for name, reader in NAMED.items()} | {"your own data": _OWN_RULES}).items()
)


def load_dataset(config: DatasetConfig) -> "RetrievalDataset":
    """Read a data set's annotations and check what they say. Opens no image.

    config.root  of people's own data the folder that image paths start from; the folder itself, or the file's folder,
                 by default

    Raises DatasetError when the data set is unknown, or files are missing or malformed, and UsageError when the data
    set has no such split.
    """
    # `--help` reads the tables, and need not wait for numpy.
    from clipret.datasets.base import finish
    from clipret.datasets.caption_lists import split_caption_lists
    from clipret.datasets.paths import use_files_that_fit
    from clipret.datasets.zipped import use_zips

    own = config.dataset not in NAMED
    reader = _own_reader(config) if own else NAMED[config.dataset]
    if config.split is not None and config.split not in reader.splits:
        raise UsageError(
            f"--split is '{config.split}'; '{config.dataset}' can be split by: {', '.join(reader.splits)}."
        )
    dataset = load_function(reader.load)(config)
    if not own:
        return use_zips(finish(dataset, config))
    dataset = split_caption_lists(dataset)
    if any(dataset.name in row.caches for row in NAMED.values()):
        # A file called coco.csv is not COCO: its name must not choose COCO's protocols.
        dataset = replace(dataset, name=f"own-{dataset.name}")
    return use_files_that_fit(use_zips(finish(dataset, config)))


def load_function(place: str) -> Callable:
    """The function that a row names as "module:function"."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(f"clipret.datasets.{module}"), name)


def _own_reader(config: DatasetConfig) -> OwnReader:
    """The first row of OWN that fits the path config.dataset. Raises DatasetError when none does."""
    path = Path(config.dataset)
    if not ("/" in config.dataset or "." in config.dataset or is_there(path, Path.exists)):
        raise DatasetError(
            f"unknown data set '{config.dataset}'; expected one of {', '.join(NAMED)}, or the path of your own data: "
            f"{_FORMS}."
        )
    if config.root is not None and not is_there(config.root, Path.is_dir):
        raise DatasetError(f"--root {config.root} is not a folder; expected the folder that image paths start from.")
    for name, reader in NAMED.items():
        if any(is_there(path / mark) for mark in reader.marks):
            raise DatasetError(f"{path} has the annotations of {name}; read it with: --dataset {name} --root {path}")
    reader = next((reader for reader in OWN.values() if reader.fits(path)), None)
    if not (reader and reader.patterns) and not is_there(path, Path.exists):
        raise DatasetError(f"there is no data set at {path}; expected {_FORMS}.")
    if reader is None:
        ending = f"the ending {path.suffix.lower()}" if path.suffix else "no ending"
        raise DatasetError(f"{path} has {ending}; expected {_FORMS}.")
    return reader
