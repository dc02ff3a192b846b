"""A folder of images with their captions: in tables, in a text file beside each image, or in shards."""

import shlex
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from clipret.config import DatasetConfig
from clipret.datasets.base import RetrievalDataset, own_splits
from clipret.datasets.captions import require_short
from clipret.datasets.folder_files import (
    IMAGE_ENDINGS,
    Listing,
    ending,
    folder_name,
    folder_remarks,
    folder_splits,
    is_image,
    is_text,
    link_remarks,
    list_files,
)
from clipret.datasets.folder_tables import SPLIT_HINT, caption_tables, load_tables, metadata_files
from clipret.datasets.parsing import counted, is_there, listed, read_text
from clipret.datasets.paths import look, look_remark
from clipret.datasets.table_files import ENDINGS
from clipret.errors import DatasetError


def load_folder(config: DatasetConfig) -> RetrievalDataset:
    """Read a folder of images. Opens no image.

    With metadata.jsonl (.csv, .parquet), at its top or in each of its split folders, that table says which images there
    are, as for a table of one's own, with the columns file_name and text, caption or captions.

    Otherwise the images are all those below it, sorted, and the captions of a/b.jpg are the lines of a/b.txt. Where no
    image has such a file, the tables are read that are named after splits, as train.csv, or Flickr's captions.txt; and
    where there are shards instead of images, all of these.

    The split is the tables', or that of the top folders when all images are in folders named after splits; else
    80/10/10 by a hash of the id. Folders that all is in, as `data` of `data/train`, are looked through.

    Raises DatasetError when something is malformed, is there twice, or is in a split only in part.
    """
    folder = Path(config.dataset)
    listing = list_files(folder)
    if tables := metadata_files(folder, listing):
        return load_tables(config, listing, tables=tables, metadata=True)
    if not _has_texts(listing):
        if tables := caption_tables(folder, listing):
            return load_tables(config, listing, tables=tables, metadata=False)
        shards = [name for name in (*listing.files, *listing.links) if ending(name) == ".tar"]
        if shards and not listing.images:
            return _load_shards(config, shards)
    return _load_text_files(config, listing)


def _has_texts(listing: Listing) -> bool:
    """Whether any image has a text file of its name beside it."""
    stems = {look(name.rpartition(".")[0]) for name in listing.images}
    return any(is_text(name) and look(name.rpartition(".")[0]) in stems for name in listing.files)


def _load_shards(config: DatasetConfig, names: list[str]) -> RetrievalDataset:
    # Loads nothing of shards for those who have none.
    from clipret.datasets.shards import load_shards

    _require_own_root(config)
    folder = Path(config.dataset)
    remark = f"read as {counted(len(names), 'shard')}: {listed(names)}"
    return load_shards(config, shards=[folder / name for name in names], name=folder_name(folder), remarks=(remark,))


def _load_text_files(config: DatasetConfig, listing: Listing) -> RetrievalDataset:
    folder = Path(config.dataset)
    _require_own_root(config)
    images = _by_stem(folder, listing.images)
    texts, remarks = _paired(images, _by_stem(folder, [name for name in listing.files if is_text(name)]))
    more = _what_else(folder, listing)
    if not images:
        raise DatasetError(
            f"{folder} has no images; expected files ending in {', '.join(sorted(IMAGE_ENDINGS))}.{more}"
        )
    captions = [_lines(folder / texts[stem]) if stem in texts else [] for stem in images]
    if not any(captions):
        raise DatasetError(
            f"none of the {len(images):,} images in {folder} has a caption; expected a metadata.jsonl, or beside an "
            f"image a text file of the same name, such as {next(iter(images))}.txt.{more}"
        )
    files = list(images.values())
    codes = folder_splits(folder, files, listing=listing) if config.split != "hash" else None
    splits, rule = own_splits(files, config, codes=codes, hint=SPLIT_HINT, of="paths")
    return RetrievalDataset(
        name=folder_name(folder),
        root=folder,
        image_ids=files,
        image_files=files,
        image_splits=splits,
        captions=[text for own in captions for text in own],
        caption_images=np.repeat(np.arange(len(files)), [len(own) for own in captions]),
        split_rule=rule,
        remarks=(
            *remarks,
            *_text_remarks(listing, images=images, texts=texts),
            *(folder_remarks(files, listing=listing) if codes else ()),
        ),
    )


def _paired(images: dict[str, str], texts: dict[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The text files by the stems of their images; one that has none is that of the only image that looks like it."""
    bare = {stem for stem in images if stem not in texts}
    strays = [stem for stem in texts if stem not in images]
    if not bare or not strays:
        return texts, ()
    stems_of = defaultdict(list)
    for stem in bare:
        stems_of[look(stem)].append(stem)
    paired, pairs, looks = dict(texts), [], Counter(map(look, strays))
    for stem in strays:
        fitting = stems_of.get(look(stem), [])
        if len(fitting) == 1 and looks[look(stem)] == 1:
            paired[fitting[0]] = paired.pop(stem)
            pairs.append((images[fitting[0]], texts[stem]))
    return paired, (look_remark("text file", pairs),) if pairs else ()


def _require_own_root(config: DatasetConfig) -> None:
    if config.root is not None and config.root.resolve() != Path(config.dataset).resolve():
        raise DatasetError(
            f"--root is {config.root}, and the images are those in {config.dataset}; leave --root out, or give a table "
            f"as --dataset."
        )


def _what_else(folder: Path, listing: Listing) -> str:
    """What of the folder could be given instead, and what of it was not looked at."""
    saved = [name.rpartition("/")[0] for name in listing.files if name.endswith("/state.json")]
    if saved:
        return (
            f" It has folders of save_to_disk, {listed(saved)}, and no dataset_dict.json: give one, as --dataset "
            f"{shlex.quote(str(folder / saved[0]))}"
        )
    tables = [name for name in listing.files if ending(name) in (*ENDINGS, ".json")]
    shards = [name for name in listing.files if ".tar" in name.rpartition("/")[2].lower()]
    said = ""
    if names := tables or shards:
        what = "the one with the captions" if tables else "the shards"
        said = f" It has {listed(names)}: give {what}, as --dataset {shlex.quote(str(folder / names[0]))}"
    if listing.links:
        said += f" Left out: {listed(listing.links)}, which point outside it or nowhere."
    return said


def _by_stem(folder: Path, names: list[str]) -> dict[str, str]:
    """Path without its ending -> path. Raises DatasetError on two with one stem: their captions would be shared."""
    paths, twice = {}, []
    for name in names:
        first = paths.setdefault(name.rpartition(".")[0], name)
        if first != name:
            twice.append(f"{first} and {name}")
    if twice:
        raise DatasetError(
            f"{folder}: {len(twice):,} pairs of files differ only in their endings: {listed(twice, limit=3)}; "
            f"give them different names, as a text file belongs to the image with the same name."
        )
    return paths


def _lines(path: Path) -> list[str]:
    # What cannot be looked at cannot be read either, which is said then.
    require_short(path, path.stat().st_size if is_there(path) else 0)
    return [line for line in read_text(path).split("\n") if line.strip()]


def _text_remarks(listing: Listing, *, images: dict[str, str], texts: dict[str, str]) -> tuple[str, ...]:
    strays = [name for stem, name in texts.items() if stem not in images]
    others = [name for name in listing.files if not is_image(name) and not is_text(name)]
    remarks = []
    if strays:
        remarks.append(f"{len(strays):,} text files belong to no image and were left out: {listed(strays)}")
    if others:
        remarks.append(f"{len(others):,} files are neither images nor captions and were left out: {listed(others)}")
    return (*remarks, *link_remarks(listing.links))
