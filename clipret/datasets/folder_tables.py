"""Tables in a folder of images: a metadata file, or one in each split's folder; a table for each split; Flickr's."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets.base import RetrievalDataset, own_splits, renamed_splits, split_code
from clipret.datasets.flickr30k_captions import read_captions
from clipret.datasets.folder_files import (
    Listing,
    ending,
    folder_name,
    folder_remarks,
    folder_splits,
    is_image,
    is_text,
    link_remarks,
    parts,
)
from clipret.datasets.parsing import listed
from clipret.datasets.paths import ImagePaths, look
from clipret.datasets.table import TableImages, read_images
from clipret.datasets.table_files import ENDINGS, open_table
from clipret.errors import DatasetError

SPLIT_HINT = "all images in folders named train, val and test"
# As Hugging Face's `imagefolder` has them.
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_METADATA_COLUMNS = {"image": ("file_name",), "caption": ("text", "caption", "captions")}
_TABLE_COLUMNS = {"image": ("image", "file_name"), "caption": ("caption", "captions", "text")}
# As Kaggle's Flickr8k and Flickr30k, and Flickr8k of its authors, have their captions; these have a
# file of lemmas too, which are no captions.
_FLICKR = re.compile(r"captions\.txt|results\.csv|(?!.*lemma).*\.token(\.txt)?", re.IGNORECASE)
# train.csv, and a hub's train-00000-of-00003.parquet.
_SPLIT_TABLE = re.compile(r"([^.]+?)(-\d+-of-\d+)?(\.[^.]+)")
# Names that tell where a table's paths start.
_LOOKED_UP = 1_000


def metadata_files(folder: Path, listing: Listing) -> dict[str, int | None]:
    """The metadata file of the folder, or those of its split folders: path -> index in config.SPLITS.

    Raises DatasetError when there are two in one place, or when only some split folders have one.
    """
    by_place: dict[str, list[str]] = {}
    # A hub's download cache holds nothing but links that lead out of the folder: metadata, and images that it names,
    # may be such.
    for name in sorted([*listing.files, *listing.links], key=parts):
        place, _, file = name.removeprefix(listing.wrapper).rpartition("/")
        top = not place or (listing.split_of(name) is not None and "/" not in place)
        if file in _METADATA and top and (folder / name).is_file():
            by_place.setdefault(place, []).append(name)
    crowded = next((names for names in by_place.values() if len(names) > 1), None)
    if crowded is None and "" in by_place and len(by_place) > 1:
        crowded = [name for names in by_place.values() for name in names]
    if crowded:
        raise DatasetError(
            f"{folder} has {listed(crowded)}; expected one metadata file, or one in each split's folder."
        )
    if by_place and "" not in by_place:
        tops = {
            name.removeprefix(listing.wrapper).partition("/")[0]
            for name in listing.images
            if listing.split_of(name) is not None
        }
        bare = sorted(tops - set(by_place))
        if bare:
            have = listed(names[0] for names in by_place.values())
            raise DatasetError(f"{folder} has {have}, and no metadata file in {listed(bare)}; expected one in each.")
    return {names[0]: split_code(place) if place else None for place, names in by_place.items()}


def caption_tables(folder: Path, listing: Listing) -> dict[str, int | None]:
    """The tables that are named after splits, or Flickr's caption file: path -> index in config.SPLITS.

    Raises DatasetError when there are two tables of one split, or two caption files.
    """
    by_split: dict[int, list[str]] = {}
    single = []
    for name in listing.files:
        file = PurePosixPath(name).name
        match = _SPLIT_TABLE.fullmatch(file)
        if match and match[3].lower() in ENDINGS and split_code(match[1]) is not None:
            by_split.setdefault(split_code(match[1]), []).append(name)
        elif _FLICKR.fullmatch(file):
            single.append(name)
    for code, names in by_split.items():
        whole = [name for name in names if not _SPLIT_TABLE.fullmatch(PurePosixPath(name).name)[2]]
        if whole and len(names) > 1:
            raise DatasetError(f"{folder} has {listed(names)} for the split {SPLITS[code]}; expected one table for it.")
    if by_split:
        return {name: code for code, names in sorted(by_split.items()) for name in names}
    if len(single) > 1:
        raise DatasetError(f"{folder} has the caption files {listed(single)}; expected one: move the others away.")
    return dict.fromkeys(single)


def load_tables(
    config: DatasetConfig, listing: Listing, *, tables: dict[str, int | None], metadata: bool
) -> RetrievalDataset:
    """The images that these tables of a folder name.

    tables    path -> the split that its place or its name says, an index in config.SPLITS, or None
    metadata  whether they are metadata files, whose paths start from where they are; those of other tables start from
              the folder that has them

    Raises DatasetError when one is malformed, or an image is in two.
    """
    folder = Path(config.dataset)
    read = _read_metadata if metadata else _read_table
    paths = ImagePaths(config.root or folder)
    tables_read, remarks = [], []
    for name, code in tables.items():
        images, place = read(folder, name, config, listing=listing)
        remarks += images.remarks
        split = None if config.split == "hash" else code
        tables_read.append(_placed(images, folder / name, place=place, split=split, paths=paths))
    remarks += paths.remarks
    if config.split != "hash":
        remarks += renamed_splits(_split_word(name) for name, code in tables.items() if code is not None)
    bare = [name for name, part in zip(tables, tables_read, strict=True) if part.ids is None]
    if bare and len(bare) < len(tables):
        remarks.append(f"{listed(bare)} {'has' if len(bare) == 1 else 'have'} no ids, so that the files are the ids")
    if config.root is None:
        remarks += _remarks(listing, named={file for part in tables_read for file in part.files}, tables=tables)
    files = [file for part in tables_read for file in part.files]
    ids = files if bare else [name for part in tables_read for name in part.ids]
    if not metadata:
        _require_apart(folder, dict(zip(tables, (part.files for part in tables_read), strict=True)))
    codes = None
    if all(part.splits is not None for part in tables_read):
        codes = [code for part in tables_read for code in part.splits]
    elif config.split != "hash":
        codes = folder_splits(folder, files, listing=listing)
        remarks += folder_remarks(files, listing=listing) if codes else ()
    starts = np.cumsum([0, *(len(part.files) for part in tables_read)])
    hint = f"{SPLIT_HINT}, or a column `split` in the metadata"
    splits, rule = own_splits(ids, config, codes=codes, hint=hint, of="paths" if ids == files else "ids")
    return RetrievalDataset(
        name=folder_name(folder),
        root=config.root or folder,
        image_ids=ids,
        image_files=files,
        image_splits=splits,
        captions=[text for part in tables_read for text in part.captions],
        caption_images=np.concatenate(
            [part.caption_images + start for part, start in zip(tables_read, starts, strict=False)]
        ),
        split_rule=rule,
        remarks=tuple(remarks),
    )


def _split_word(name: str) -> str:
    """The split in a table's name, or in that of its folder where it is called as all metadata files are."""
    folder, _, file = name.rpartition("/")
    return folder.rpartition("/")[2] if file in _METADATA else _SPLIT_TABLE.fullmatch(file)[1]


def _read_metadata(folder: Path, name: str, config: DatasetConfig, *, listing: Listing) -> tuple[TableImages, str]:
    """The images of a metadata file, and the place that its paths start from, which is its own."""
    place = name.rpartition("/")[0]
    root = (config.root or folder) / place
    return read_images(open_table(folder / name), config, root=root, usual=_METADATA_COLUMNS), place


def _read_table(folder: Path, name: str, config: DatasetConfig, *, listing: Listing) -> tuple[TableImages, str]:
    """The images of another table, and the place that its paths start from."""
    if _FLICKR.fullmatch(PurePosixPath(name).name):
        images = _flickr_images(folder / name)
    else:
        images = read_images(open_table(folder / name), config, root=config.root, usual=_TABLE_COLUMNS)
    if config.root:
        return images, ""
    place = _start_of(images.files, listing, table=name)
    if place == name.rpartition("/")[0]:
        return images, place
    remark = f"the paths in {name} start from {place or 'the top folder'}, where these images are"
    return dataclasses.replace(images, remarks=(*images.remarks, remark)), place


def _placed(images: TableImages, path: Path, *, place: str, split: int | None, paths: ImagePaths) -> TableImages:
    """The images with files and splits as seen from the whole data set."""
    # What is absolute starts from no place, and is held against the root.
    files = [paths.read(str(PurePosixPath(place) / file)) for file in images.files]
    splits = images.splits
    if split is not None:
        others = [file for file, own in zip(files, splits or [], strict=False) if own != split]
        if others:
            whose = "folder's" if path.name in _METADATA else "table's"
            raise DatasetError(
                f"{path}: {len(others):,} images have another split than their {whose}, {SPLITS[split]}: "
                f"{listed(others)}; expected the same, or no column `split`."
            )
        splits = [split] * len(files)
    return dataclasses.replace(images, files=files, splits=splits)


def _flickr_images(path: Path) -> TableImages:
    flickr, remarks = read_captions(path)
    paths = ImagePaths(None)
    return TableImages(
        files=[paths.read(image.file) for image in flickr],
        ids=None,
        splits=None,
        captions=[text for image in flickr for _, text in image.captions],
        caption_images=np.repeat(np.arange(len(flickr)), [len(image.captions) for image in flickr]),
        remarks=(*remarks, *paths.remarks),
    )


def _start_of(files: list[str], listing: Listing, *, table: str) -> str:
    """The folder that the paths of a table start from: that which has most of the first thousand, else the table's."""
    own = table.rpartition("/")[0]
    paths_of: dict[str, list[str]] = {}
    for name in (*listing.images, *(name for name in listing.links if is_image(name))):
        paths_of.setdefault(look(PurePosixPath(name).name), []).append(name)
    # By the very names, and by names that look equal, which count where no very name is there.
    exact, alike = Counter({own: 0}), Counter({own: 0})
    for file in files[:_LOOKED_UP]:
        for path in paths_of.get(look(PurePosixPath(file).name), ()):
            start = "/".join(parts(path)[: -len(parts(file))])
            full = f"{start}/{file}" if start else file
            exact[start] += full == path
            alike[start] += look(full) == look(path)
    counted = exact if any(exact.values()) else alike
    # Of equal counts the first one, the table's own.
    return max(counted, key=counted.__getitem__)


def _require_apart(folder: Path, files: dict[str, list[str]]) -> None:
    """Raise DatasetError when two tables name the same image."""
    homes: dict[str, str] = {}
    for table, names in files.items():
        twice = [name for name in names if name in homes]
        if twice:
            raise DatasetError(
                f"{folder}: {len(twice):,} images of {table} are in other tables too, first {twice[0]} in "
                f"{homes[twice[0]]}; expected each image in one split."
            )
        homes |= dict.fromkeys(names, table)


def _remarks(listing: Listing, *, named: set[str], tables: Iterable[str]) -> tuple[str, ...]:
    tables = list(tables)
    read = listed(tables)
    # Those that are taken for files that are not there are no strangers.
    looks = set(map(look, named - set(listing.images)))
    images = [name for name in listing.images if name not in named and look(name) not in looks]
    links = [name for name in listing.links if name not in named and name not in tables]
    texts = [name for name in listing.files if is_text(name) and name not in tables]
    others = [name for name in listing.files if ending(name) in ENDINGS and name not in tables]
    remarks = []
    if images:
        remarks.append(f"{len(images):,} images that {read} does not name were left out: {listed(images)}")
    if texts:
        remarks.append(f"{len(texts):,} text files were not read, as {read} has the captions: {listed(texts)}")
    if others:
        remarks.append(f"{len(others):,} tables were not read, as {read} has the captions: {listed(others)}")
    return (*remarks, *link_remarks(links))
