"""MS-COCO captions: the 2017 release, where val2017 is the test split, and Karpathy's split of the same images."""

import contextlib
import os
import re
from pathlib import Path

import numpy as np

from clipret.annotations.karpathy_ids import karpathy_test_ids
from clipret.config import DATA_DIR, SPLITS, DatasetConfig
from clipret.datasets.base import RetrievalDataset, split_by_hash
from clipret.datasets.coco_json import CocoImage, read_captions
from clipret.datasets.containers import container_of
from clipret.datasets.karpathy import find_karpathy, read_karpathy
from clipret.datasets.karpathy_tables import find_karpathy_tables, read_karpathy_tables
from clipret.datasets.parsing import is_there, listed
from clipret.errors import DatasetError

_IMAGE_FOLDERS = ("train2017", "val2017", "train2014", "val2014")
_IMAGE_NAME = re.compile(r"(?:COCO_(?:train|val)2014_)?(\d{12})\.jpg")
_FETCH = "Download them with: clipret download coco --root {root}; or say where they are with --root (make: ROOT=)."


def load_coco(config: DatasetConfig) -> RetrievalDataset:
    """Read COCO's caption annotations below config.root, data/coco by default.

    Split 2017 (the default): annotations/captions_{train,val}2017.json. val2017 is `test`; of train2017,
    config.val_fraction, by a hash of the image id, is `val`. Images in the order of their ids, train2017 first;
    captions in the order of theirs.

    Split karpathy: dataset_coco.json, or the tables made from it, as the Hub has them; where neither is there, the test
    ids of package `eccv-caption`, and annotations/captions_{train,val}2014.json or 2017. The test images come in
    Karpathy's order, which the folds of the 1K protocol are cut by.

    Raises DatasetError when a file is missing or malformed.
    """
    root = config.root or DATA_DIR / "coco"
    return _karpathy(root, config) if config.split == "karpathy" else _release_2017(root, config)


def _release_2017(root: Path, config: DatasetConfig) -> RetrievalDataset:
    parts = {year: root / "annotations" / f"captions_{year}.json" for year in ("train2017", "val2017")}
    folders = [root / year for year in parts if not is_there(root / f"{year}.zip")]
    missing = [path for path in (*parts.values(), *folders) if not path.exists()]
    if missing:
        names = ", ".join(str(path.relative_to(root)) for path in missing)
        raise DatasetError(f"COCO 2017 at {root} is incomplete: it lacks {names}. {_FETCH.format(root=root)}")
    images, files, is_test = [], [], []
    for year, path in parts.items():
        entries = read_captions(path)
        images += entries
        files += [f"{year}/{image.file_name}" for image in entries]
        is_test += [year == "val2017"] * len(entries)
    splits = _hash_split(images, config)
    splits[np.array(is_test, dtype=bool)] = SPLITS.index("test")
    return _dataset("coco", root, images=images, files=files, splits=splits, rule=f"val2017 is test; {_hashed(config)}")


def _karpathy(root: Path, config: DatasetConfig) -> RetrievalDataset:
    path = find_karpathy(root, "dataset_coco.json")
    tables = find_karpathy_tables(root) if path is None else []
    if path is None and not tables:
        return _karpathy_from_ids(root, config)
    if tables:
        images, _ = read_karpathy_tables(tables, root=root, whole=True)
    else:
        images = read_karpathy(path, id_field="cocoid")
    entries = [CocoImage(id=image.id, file_name=image.file, captions=image.captions) for image in images]
    splits = np.array([SPLITS.index(image.split) for image in images], dtype=np.uint8)
    if config.restval:
        splits[splits == SPLITS.index("restval")] = SPLITS.index("train")
    rule = "Karpathy's split" + (", restval joined to train" if config.restval else "")
    return _dataset("coco-karpathy", root, images=entries, files=find_files(root, entries), splits=splits, rule=rule)


def _karpathy_from_ids(root: Path, config: DatasetConfig) -> RetrievalDataset:
    """Karpathy's test images by the ids in `eccv-caption`; every other image of the annotations is train or val."""
    parts = _annotation_files(root)
    test_ids = karpathy_test_ids(otherwise=f"put Karpathy's dataset_coco.json into {root}")
    images = {image.id: image for path in parts for image in read_captions(path)}
    absent = [number for number in test_ids if number not in images]
    if absent:
        raise DatasetError(
            f"{len(absent):,} of Karpathy's {len(test_ids):,} test images are not in {listed(parts)}: "
            f"{listed(absent)}; expected COCO's caption files of train and val, whole."
        )
    tested = set(test_ids)
    ordered = [images[number] for number in test_ids]
    ordered += [image for number, image in sorted(images.items()) if number not in tested]
    splits = _hash_split(ordered, config)
    splits[: len(test_ids)] = SPLITS.index("test")
    rule = f"Karpathy's test; the other images: {_hashed(config)}, not Karpathy's"
    return _dataset("coco-karpathy", root, images=ordered, files=find_files(root, ordered), splits=splits, rule=rule)


def _annotation_files(root: Path) -> list[Path]:
    for year in ("2014", "2017"):
        parts = [root / "annotations" / f"captions_{part}{year}.json" for part in ("train", "val")]
        if all(path.is_file() for path in parts):
            return parts
    raise DatasetError(
        f"Karpathy's split needs, in {root}, dataset_coco.json, or annotations/captions_{{train,val}}2014.json or "
        f"captions_{{train,val}}2017.json. {_FETCH.format(root=root)}"
    )


def find_files(root: Path, images: list[CocoImage]) -> list[str]:
    """Where each image is below root, under its 2014 or its 2017 name; the annotations' name when it is nowhere.

    Images that are in a table stay there.
    """
    files = {}
    for folder in _IMAGE_FOLDERS:
        with contextlib.suppress(OSError), os.scandir(root / folder) as entries:
            for entry in entries:
                if match := _IMAGE_NAME.fullmatch(entry.name):
                    files.setdefault(int(match[1]), f"{folder}/{entry.name}")
    names = [image.file_name for image in images]
    return [
        name if container_of(name) else files.get(image.id) or name for image, name in zip(images, names, strict=True)
    ]


def _hash_split(images: list[CocoImage], config: DatasetConfig) -> np.ndarray:
    fractions = {"train": 1 - config.val_fraction, "val": config.val_fraction}
    return split_by_hash([str(image.id) for image in images], fractions=fractions)


def _hashed(config: DatasetConfig) -> str:
    return f"train and {100 * config.val_fraction:g} % val by hash of the image id"


def _dataset(name: str, root: Path, *, images: list[CocoImage], files, splits, rule: str) -> RetrievalDataset:
    return RetrievalDataset(
        name=name,
        root=root,
        image_ids=[str(image.id) for image in images],
        image_files=files,
        image_splits=splits,
        captions=[text for image in images for _, text in image.captions],
        caption_ids=[str(number) for image in images for number, _ in image.captions],
        caption_images=np.repeat(np.arange(len(images)), [len(image.captions) for image in images]),
        split_rule=rule,
    )
