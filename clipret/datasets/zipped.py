"""Images in zip files: a zip file of images with their captions, and zip files that lie where images are missing."""

import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np

from clipret.config import DatasetConfig
from clipret.datasets.base import RetrievalDataset, own_splits
from clipret.datasets.captions import require_short
from clipret.datasets.containers import container_of
from clipret.datasets.folder_files import IMAGE_ENDINGS, Listing, folder_remarks, folder_splits, is_text, parts
from clipret.datasets.folder_tables import SPLIT_HINT
from clipret.datasets.parsing import counted, is_there, listed, repeated, text_of
from clipret.datasets.zips import member_index, read_member
from clipret.errors import DatasetError

_ENDING = ".zip"


def load_zip(config: DatasetConfig) -> RetrievalDataset:
    """Read a zip file of images, whose captions are the lines of a text file of the same name beside each.

    Images are those of a folder with the same files, under the same ids and in the same splits. Nothing is unpacked.

    Raises DatasetError when the zip file cannot be read, or has no images or no captions.
    """
    path = Path(config.dataset)
    index = member_index(path)
    names = sorted((name for name in index if not any(part.startswith(".") for part in parts(name))), key=parts)
    listing = Listing(files=names, links=[])
    images, texts = listing.images, {_stem(name): name for name in names if is_text(name)}
    if not images:
        raise DatasetError(f"{path} has no images; expected members ending in {', '.join(sorted(IMAGE_ENDINGS))}.")
    if twice := repeated(map(_stem, images)):
        raise DatasetError(
            f"{path}: {counted(len(twice), 'image')} differ from others only in their endings: {listed(twice)}; give "
            f"them different names, as a text file belongs to the image with the same name."
        )
    captions = [
        _lines(path, texts[_stem(name)], size=index[texts[_stem(name)]][-1]) if _stem(name) in texts else []
        for name in images
    ]
    if not any(captions):
        raise DatasetError(
            f"{path} has {counted(len(images), 'image')} and no captions; expected beside an image a text file of the "
            f"same name, such as {_stem(images[0])}.txt. If a table has them, put it beside the zip file, and give the "
            f"table."
        )
    codes = None if config.split == "hash" else folder_splits(path, images, listing=listing)
    splits, rule = own_splits(images, config, codes=codes, hint=SPLIT_HINT, of="paths")
    strays = sorted(set(texts.values()) - {texts.get(_stem(name)) for name in images})
    left = [f"{counted(len(strays), 'text file')} of no image left out: {listed(strays)}"] if strays else []
    return RetrievalDataset(
        name=path.stem,
        root=path.parent,
        image_ids=images,
        image_files=[f"{path.name}/{name}" for name in images],
        image_splits=splits,
        captions=[text for own in captions for text in own],
        caption_images=np.repeat(np.arange(len(images)), [len(own) for own in captions]),
        split_rule=rule,
        remarks=(*left, *(folder_remarks(images, listing=listing) if codes else ())),
    )


def use_zips(dataset: RetrievalDataset) -> RetrievalDataset:
    """The data set with each image file that is not there replaced by the member of a zip file in the root, if any.

    The member has the file's path, or one that ends in it, or the path ends in the member's: `a.zip` may have been
    packed with or without the folder. Looks into zip files only where images are missing.

    Raises DatasetError when a zip file cannot be read, or several members fit.
    """
    zips = sorted(path for path in dataset.root.glob(f"*{_ENDING}") if is_there(path))
    rows = (
        [row for row in dataset.missing_rows().tolist() if not container_of(dataset.image_files[row])] if zips else []
    )
    if not rows:
        return dataset
    members = defaultdict(list)
    for path in zips:
        for name in member_index(path):
            members[parts(name)[-1]].append((path.name, name))
    files, counts = list(dataset.image_files), dict.fromkeys((path.name for path in zips), 0)
    for row in rows:
        if place := _fitting(files[row], members, dataset=dataset):
            counts[place[0]] += 1
            files[row] = "/".join(place)
    remarks = [f"{counted(count, 'image')} read from {name}" for name, count in counts.items() if count]
    return dataclasses.replace(dataset, image_files=files, remarks=(*dataset.remarks, *remarks))


def _fitting(
    file: str, members: dict[str, list[tuple[str, str]]], *, dataset: RetrievalDataset
) -> tuple[str, str] | None:
    """(zip file, member) of an image file; None where there is none."""
    candidates = members.get(parts(file)[-1], [])
    for fits in (
        [place for place in candidates if place[1] == file],
        [place for place in candidates if place[1].endswith(f"/{file}") or file.endswith(f"/{place[1]}")],
    ):
        if len(fits) > 1:
            raise DatasetError(
                f"data set '{dataset.name}': {file} is not in {dataset.root}, and {listed(map('/'.join, fits))} fit; "
                f"write the one that is meant."
            )
        if fits:
            return fits[0]
    return None


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _lines(path: Path, name: str, *, size: int) -> list[str]:
    require_short(path / name, size)
    try:
        content = read_member(path, name)
    except OSError as error:
        raise DatasetError(f"{path / name} cannot be read: {error}; download the zip file again.") from None
    return [line for line in text_of(content, path / name).split("\n") if line.strip()]
