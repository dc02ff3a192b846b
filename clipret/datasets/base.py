"""What every data set reader returns: ordered images, captions and splits, as plain columns."""

import dataclasses
import os
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np

from clipret.annotations import Annotations
from clipret.annotations.counting import caption_places
from clipret.annotations.splits import OWN_FRACTIONS, hash_rule, split_by_hash, split_code
from clipret.config import SPLITS, DatasetConfig
from clipret.datasets.captions import clean_caption, is_empty
from clipret.datasets.containers import CONTAINERS, split_container
from clipret.datasets.parsing import counted, flaw, listed, repeated
from clipret.errors import DatasetError

__all__ = [
    "OWN_FRACTIONS",
    "RetrievalDataset",
    "finish",
    "own_splits",
    "renamed_splits",
    "split_by_hash",
    "split_code",
]


@dataclass(frozen=True, kw_only=True)
class RetrievalDataset(Annotations):
    """Annotations, and where their images are. No image has been opened.

    name        the data set's name; tells the protocols and the leakage guard what the images are
    root        folder that image_files are relative to
    split_rule  what gave each image its split, in words
    background  how transparent pixels are read unless the user says otherwise (config.BACKGROUNDS)
    remarks     what the annotations got wrong and was put right, in words
    """

    name: str
    root: Path
    split_rule: str
    background: str = "clip"
    remarks: tuple[str, ...] = ()

    def __post_init__(self):
        for what, column in (("images", self.image_ids), ("captions", self.captions)):
            if not column:
                raise DatasetError(
                    f"data set '{self.name}' at {self.root} has no {what}; extraction needs at least one."
                )
        super().__post_init__()

    def missing_rows(self) -> np.ndarray:
        """Rows of the images whose files are not there, ascending. Lists each folder once; opens no image."""
        folders, missing = {}, []
        for row, name in enumerate(self.image_files):
            folder, file = split_container(name)
            if folder not in folders:
                folders[folder] = _names_in(self.root / folder)
            if file not in folders[folder]:
                missing.append(row)
        return np.array(missing, dtype=np.int64)

    def require_files(self, *, skip_missing: bool, todo: np.ndarray | None = None) -> np.ndarray:
        """Rows, ascending, of the images that are not there.

        todo  (N,) bool, the images to look for; None: all

        Raises DatasetError when there are some, unless they are to be skipped and others are there.
        """
        todo = np.ones(len(self.image_ids), dtype=bool) if todo is None else todo
        missing = self.missing_rows() if todo.any() else np.zeros(0, dtype=np.int64)
        missing = missing[todo[missing]]
        if not len(missing) or (skip_missing and len(missing) < len(self.image_ids)):
            return missing
        names = listed(self.image_files[row] for row in missing)
        problem = f"{len(missing):,} of {len(self.image_ids):,} images of '{self.name}' are not in {self.root}: {names}"
        if skip_missing:
            raise DatasetError(f"{problem}; no image would be left: put them there, or say where they are with --root")
        raise DatasetError(f"{problem}; put them there, say where they are with --root, or skip them: --skip-missing")


def finish(dataset: RetrievalDataset, config: DatasetConfig) -> RetrievalDataset:
    """What a reader found, checked and with the user's choice of captions.

    Captions that are empty, or so to CLIP, are dropped, with a remark; of the others the first captions_per_image of
    each image are kept.

    Raises DatasetError on an id that two images share, on a file that leaves the root and on text that no cache holds.
    """
    _require_storable(dataset)
    _require_unique(dataset)
    _require_inside(dataset)
    filled = np.array(
        [not is_empty(text) and not is_empty(clean_caption(text, config.caption_clean)) for text in dataset.captions],
        dtype=bool,
    )
    remarks = list(dataset.remarks)
    if not filled.any():
        raise DatasetError(
            f"data set '{dataset.name}' at {dataset.root} has no captions: all {len(filled):,} are empty, or "
            f"have no visible characters."
        )
    if not filled.all():
        empty = np.flatnonzero(~filled)
        where = listed(dict.fromkeys(dataset.image_ids[dataset.caption_images[row]] for row in empty))
        remarks.append(f"left out {counted(len(empty), 'empty caption')}, of {where}")
    keep = np.flatnonzero(filled)
    if config.captions_per_image is not None:
        keep = keep[caption_places(dataset.caption_images[keep]) < config.captions_per_image]
    kept = dataclasses.replace(
        dataset,
        captions=[dataset.captions[row] for row in keep],
        caption_ids=[dataset.caption_ids[row] for row in keep],
        caption_images=dataset.caption_images[keep],
    )
    bare = len(dataset.image_ids) - len(np.unique(kept.caption_images))
    if bare:
        remarks.append(f"{counted(bare, 'image')} without a caption, in the gallery only")
    return dataclasses.replace(kept, remarks=tuple(remarks))


def renamed_splits(names: Iterable[str | None]) -> tuple[str, ...]:
    """What is said of splits under other names than ours: a remark on those of the names that are such, or none."""
    codes = {name: split_code(name) for name in dict.fromkeys(names) if name is not None}
    others = [f"{name} as {SPLITS[code]}" for name, code in codes.items() if code is not None and name != SPLITS[code]]
    return (f"splits under other names: {listed(others)}",) if others else ()


def own_splits(ids: list[str], config: DatasetConfig, *, codes, hint: str, of: str = "ids") -> tuple[np.ndarray, str]:
    """Split codes (N,) uint8 of people's own data, and in words the rule behind them.

    codes  N codes that the data set comes with, or None
    hint   how such a data set would name its splits; for the error when --split given asks for splits that it lacks
    of     what the ids are, for the rule: the hash of other ids gives other splits
    """
    if codes is not None and config.split != "hash":
        return np.asarray(codes, dtype=np.uint8), "given"
    if config.split == "given":
        raise DatasetError(
            f"--split is 'given', and {config.dataset} does not say which split its images are in; expected {hint}, or "
            f"use --split hash."
        )
    return split_by_hash(ids, fractions=OWN_FRACTIONS), hash_rule(of)


def _require_storable(dataset: RetrievalDataset) -> None:
    owners = [dataset.image_ids[image] for image in dataset.caption_images.tolist()]
    for what, texts, ids in (
        ("the id", dataset.image_ids, dataset.image_ids),
        ("the file", dataset.image_files, dataset.image_ids),
        ("a caption", dataset.captions, owners),
    ):
        for text, image in zip(texts, ids, strict=True):
            if fault := flaw(text, one_line=what != "a caption"):
                raise DatasetError(
                    f"data set '{dataset.name}': {what} of image {image!a} has {fault}: {text[:60]!a}; fix it."
                )


def _require_unique(dataset: RetrievalDataset) -> None:
    if twice := repeated(dataset.image_ids):
        raise DatasetError(
            f"data set '{dataset.name}': {len(twice):,} image ids are used by more than one image: {listed(twice)}; "
            f"every image needs its own id."
        )


def _require_inside(dataset: RetrievalDataset) -> None:
    outside = [name for name in dataset.image_files if _leaves(name)]
    if outside:
        raise DatasetError(
            f"data set '{dataset.name}': {len(outside):,} image files are outside {dataset.root}: {listed(outside)}; "
            f"expected paths relative to it, with forward slashes and without `..`{_root_of(outside)}."
        )


def _leaves(name: str) -> bool:
    """Whether a path is absolute, on any system, or goes up; looked at as text, for there are many."""
    if name.startswith(("/", "~")) or "\\" in name:
        return True
    return (".." in name and ".." in name.split("/")) or (":" in name and PureWindowsPath(name).drive != "")


def _root_of(outside: list[str]) -> str:
    """The way out where all files that lead out of a root are absolute: a root that all are in."""
    if not all(name.startswith("/") for name in outside):
        return ""
    common = os.path.commonpath([name.rpartition("/")[0] or "/" for name in outside])
    return f", or a --root that they are in: {common}"


def _names_in(folder: Path) -> Container[str]:
    """Names of the files in a folder, or of the members of a container; empty when there is neither."""
    if container := CONTAINERS.get(folder.suffix):
        return container.index(folder) if folder.is_file() else frozenset()
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()
