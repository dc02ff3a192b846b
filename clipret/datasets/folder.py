"""A folder of images with their captions: in a metadata file, or in a text file beside each image."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets.base import RetrievalDataset, own_splits, split_code
from clipret.datasets.parsing import listed, read_text
from clipret.datasets.table import TableImages, read_images
from clipret.errors import DatasetError

_IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
# As Hugging Face's `imagefolder` has them.
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_METADATA_COLUMNS = {"image": ("file_name",), "caption": ("text", "caption", "captions")}
_SPLIT_HINT = "all images in folders named train, val and test"


@dataclass(frozen=True)
class Listing:
    """What is below a folder, hidden names aside: paths relative to it with forward slashes, sorted by their parts.

    files  regular files, and links to some in the folder
    links  links that lead out of the folder, to a folder or to nothing: not followed
    """

    files: list[str]
    links: list[str]


def load_folder(config: DatasetConfig) -> RetrievalDataset:
    """Read a folder of images. Opens no image.

    With metadata.jsonl (.csv, .parquet), at its top or in each of its split folders, that table says which images there
    are, as for a table of one's own, with the columns file_name and text, caption or captions.

    Otherwise the images are all those below it, sorted, and the captions of a/b.jpg are the lines of a/b.txt.

    The split is the metadata's, or that of the top folders when all images are in folders named after splits; else
    80/10/10 by a hash of the id.

    Raises DatasetError when something is malformed, is there twice, or is in a split only in part.
    """
    folder = Path(config.dataset)
    listing = list_files(folder)
    tables = _metadata_files(folder, listing)
    return _load_metadata(config, listing, tables=tables) if tables else _load_text_files(config, listing)


def list_files(folder: Path) -> Listing:
    """Everything below a folder. Raises DatasetError when a folder cannot be read."""
    inside = folder.resolve()
    files, links, waiting = [], [], [""]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(folder / place) as entries:
                for entry in entries:
                    name = f"{place}{entry.name}"
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink():
                        (files if _leads_to_file(entry, inside) else links).append(name)
                    elif entry.is_dir():
                        waiting.append(f"{name}/")
                    elif entry.is_file():
                        files.append(name)
        except OSError as error:
            raise DatasetError(f"{folder / place} cannot be read: {error.strerror}.") from None
    return Listing(files=sorted(files, key=_parts), links=sorted(links, key=_parts))


def _leads_to_file(link: os.DirEntry, inside: Path) -> bool:
    try:
        return link.is_file() and Path(link.path).resolve().is_relative_to(inside)
    except OSError:
        # A link that leads to itself.
        return False


def _metadata_files(folder: Path, listing: Listing) -> dict[str, str]:
    """Top folder that names a split, or an empty text for the folder itself -> the metadata file in it."""
    found: dict[str, list[str]] = {}
    # A hub's download cache holds nothing but links that lead out of the folder: metadata, and images that it names,
    # may be such.
    for name in sorted([*listing.files, *listing.links], key=_parts):
        place, _, file = name.rpartition("/")
        if file in _METADATA and (not place or _split_of(name) is not None) and "/" not in place:
            found.setdefault(place, []).append(name)
    found = {place: here for place, here in found.items() if (folder / here[0]).is_file()}
    crowded = next((here for here in found.values() if len(here) > 1), None)
    if crowded is None and "" in found and len(found) > 1:
        crowded = [name for here in found.values() for name in here]
    if crowded:
        raise DatasetError(
            f"{folder} has {listed(crowded)}; expected one metadata file, or one in each split's folder."
        )
    if found and "" not in found:
        tops = {name.partition("/")[0] for name in listing.files if _is_image(name) and _split_of(name) is not None}
        bare = sorted(tops - set(found))
        if bare:
            have = listed(here[0] for here in found.values())
            raise DatasetError(f"{folder} has {have}, and no metadata file in {listed(bare)}; expected one in each.")
    return {place: here[0] for place, here in found.items()}


def _load_metadata(config: DatasetConfig, listing: Listing, *, tables: dict[str, str]) -> RetrievalDataset:
    folder = Path(config.dataset)
    parts = [_read_part(folder / name, config, place=place) for place, name in tables.items()]
    files = [file for part in parts for file in part.files]
    ids = [name for part in parts for name in part.ids]
    given = None
    if all(part.splits is not None for part in parts):
        given = [code for part in parts for code in part.splits]
    elif config.split != "hash":
        given = _folder_splits(folder, files)
    starts = np.cumsum([0, *(len(part.files) for part in parts)])
    splits, rule = own_splits(ids, config, given=given, hint=f"{_SPLIT_HINT}, or a column `split` in the metadata")
    return RetrievalDataset(
        name=_name(folder),
        root=config.root or folder,
        image_ids=ids,
        image_files=files,
        image_splits=splits,
        captions=[text for part in parts for text in part.captions],
        caption_images=np.concatenate(
            [part.caption_images + start for part, start in zip(parts, starts, strict=False)]
        ),
        split_rule=rule,
        remarks=_metadata_remarks(listing, named=set(files), tables=tables) if config.root is None else (),
    )


def _read_part(path: Path, config: DatasetConfig, *, place: str) -> TableImages:
    """The images of the metadata file in a folder `place`; paths, ids and splits as seen from the whole data set."""
    images = read_images(path, config, usual=_METADATA_COLUMNS)
    files = [str(PurePosixPath(place) / file) for file in images.files]
    splits = images.splits
    if place and config.split != "hash":
        code = split_code(place)
        others = [file for file, own in zip(files, splits or [], strict=False) if own != code]
        if others:
            raise DatasetError(
                f"{path}: {len(others):,} images have another split than their folder's, {SPLITS[code]}: "
                f"{listed(others)}; expected the same, or no column `split`."
            )
        splits = [code] * len(files)
    return dataclasses.replace(images, files=files, ids=images.ids or files, splits=splits)


def _metadata_remarks(listing: Listing, *, named: set[str], tables: dict[str, str]) -> tuple[str, ...]:
    metadata = listed(tables.values())
    images = [name for name in listing.files if _is_image(name) and name not in named]
    links = [name for name in listing.links if name not in named and name not in tables.values()]
    texts = [name for name in listing.files if _ending(name) == ".txt"]
    remarks = []
    if images:
        remarks.append(f"{len(images):,} images that {metadata} does not name were left out: {listed(images)}")
    if texts:
        remarks.append(f"{len(texts):,} text files were not read, as {metadata} has the captions: {listed(texts)}")
    return (*remarks, *_link_remarks(links))


def _load_text_files(config: DatasetConfig, listing: Listing) -> RetrievalDataset:
    folder = Path(config.dataset)
    _require_own_root(config)
    by_ending = {kind: [name for name in listing.files if kind(name)] for kind in (_is_image, _is_text)}
    images, texts = _by_stem(folder, by_ending[_is_image]), _by_stem(folder, by_ending[_is_text])
    links = f" Left out: {listed(listing.links)}, which lead out of it or nowhere." if listing.links else ""
    if not images:
        raise DatasetError(
            f"{folder} has no images; expected files ending in {', '.join(sorted(_IMAGE_ENDINGS))}.{links}"
        )
    captions = [_lines(folder / texts[stem]) if stem in texts else [] for stem in images]
    if not any(captions):
        raise DatasetError(
            f"none of the {len(images):,} images in {folder} has a caption; expected a metadata.jsonl, or beside an "
            f"image a text file of the same name, such as {next(iter(images))}.txt.{links}"
        )
    files = list(images.values())
    given = _folder_splits(folder, files) if config.split != "hash" else None
    splits, rule = own_splits(files, config, given=given, hint=_SPLIT_HINT)
    return RetrievalDataset(
        name=_name(folder),
        root=folder,
        image_ids=files,
        image_files=files,
        image_splits=splits,
        captions=[text for own in captions for text in own],
        caption_images=np.repeat(np.arange(len(files)), [len(own) for own in captions]),
        split_rule=rule,
        remarks=_text_remarks(listing, images=images, texts=texts),
    )


def _require_own_root(config: DatasetConfig) -> None:
    if config.root is not None and config.root.resolve() != Path(config.dataset).resolve():
        raise DatasetError(
            f"--root is {config.root}, and the images are those in {config.dataset}; leave --root out, or give a table "
            f"as --dataset."
        )


def _by_stem(folder: Path, names: list[str]) -> dict[str, str]:
    """Path without its ending -> path. Raises DatasetError on two with one stem: their captions would be shared."""
    found, twice = {}, []
    for name in names:
        first = found.setdefault(name.rpartition(".")[0], name)
        if first != name:
            twice.append(f"{first} and {name}")
    if twice:
        raise DatasetError(
            f"{folder}: {len(twice):,} pairs of files differ in nothing but the ending: {listed(twice, limit=3)}; "
            f"expected names of their own, as a text file belongs to the image of its name."
        )
    return found


def _lines(path: Path) -> list[str]:
    return [line for line in read_text(path).split("\n") if line.strip()]


def _text_remarks(listing: Listing, *, images: dict[str, str], texts: dict[str, str]) -> tuple[str, ...]:
    strays = [name for stem, name in texts.items() if stem not in images]
    others = [name for name in listing.files if not _is_image(name) and not _is_text(name)]
    remarks = []
    if strays:
        remarks.append(f"{len(strays):,} text files belong to no image and were left out: {listed(strays)}")
    if others:
        remarks.append(f"{len(others):,} files are neither images nor captions and were left out: {listed(others)}")
    return (*remarks, *_link_remarks(listing.links))


def _link_remarks(links: list[str]) -> tuple[str, ...]:
    what = "links lead out of the folder, to a folder or to nothing, and were left out"
    return (f"{len(links):,} {what}: {listed(links)}",) if links else ()


def _folder_splits(folder: Path, files: list[str]) -> list[int] | None:
    """The split that each file's top folder names; None when none does. Raises DatasetError when some do."""
    codes = [_split_of(name) for name in files]
    outside = [name for name, code in zip(files, codes, strict=True) if code is None]
    if len(outside) == len(files):
        return None
    if outside:
        tops = dict.fromkeys(
            name.partition("/")[0] for name, code in zip(files, codes, strict=True) if code is not None
        )
        raise DatasetError(
            f"{folder}: {len(outside):,} of {len(files):,} images are outside the folders that name a split "
            f"({listed(tops)}): {listed(outside)}; move them into one, or go by a hash with --split hash."
        )
    return codes


def _split_of(name: str) -> int | None:
    top, inside, _ = name.partition("/")
    return split_code(top) if inside else None


def _name(folder: Path) -> str:
    return folder.name if folder.name not in ("", "..") else folder.resolve().name or "folder"


def _is_image(name: str) -> bool:
    return _ending(name) in _IMAGE_ENDINGS


def _is_text(name: str) -> bool:
    return _ending(name) == ".txt"


def _ending(name: str) -> str:
    return name[name.rfind(".") :].lower()


def _parts(name: str) -> list[str]:
    return name.split("/")
