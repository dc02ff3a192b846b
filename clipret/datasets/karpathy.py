"""Karpathy's split files, dataset_coco.json and dataset_flickr30k.json: images with their split and sentences."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config import SPLITS
from clipret.datasets.parsing import listed, read_json, repeated
from clipret.errors import DatasetError

FOLDERS = ("", "annotations", "karpathy", "caption_datasets")


@dataclass(frozen=True)
class KarpathyImage:
    """One image of a split file, in the file's order.

    id        COCO's integer id; of a data set without ids, None
    file      the file's name, below the folder that the split file names, if it names one
    split     of config.SPLITS; empty where none is asked for
    captions  (id, text) of its sentences, in the file's order
    """

    id: int | None
    file: str
    split: str
    captions: list[tuple[int, str]]


def find_karpathy(root: Path, name: str) -> Path | None:
    """The split file of that name below root, in one of the places where people keep it; None when it is in none."""
    paths = [root / folder / name for folder in FOLDERS]
    return next((path for path in paths if path.is_file()), None)


def read_karpathy(path: Path, *, id_field: str | None = None) -> list[KarpathyImage]:
    """Read a split file.

    id_field  where an image has its data set's own id: cocoid for COCO

    Raises DatasetError, with the place, when the file is not JSON or not of this form, or a sentence id is there twice.
    """
    # The tokens of the sentences are most of the file, and of no use here.
    return karpathy_images(read_json(path, without="tokens"), path, id_field=id_field)


def karpathy_images(content, path: Path, *, id_field: str | None = None, splits: bool = True) -> list[KarpathyImage]:
    """The images of a split file whose JSON has been read. Errors as those of read_karpathy.

    splits  whether the images' splits are asked for
    """
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DatasetError(f"{path} is not a split file of Karpathy's: expected an object with a list `images`.")
    images = []
    for place, entry in enumerate(content["images"]):
        where = f"{path}: images[{place}]"
        if not isinstance(entry, dict):
            raise DatasetError(f"{where} is not an object; expected filename, split and sentences.")
        split = _field(entry, "split", kind=str, where=where) if splits else ""
        if splits and split not in SPLITS:
            raise DatasetError(f"{where} has split '{split}'; expected one of: {', '.join(SPLITS)}.")
        captions = []
        for sentence in _field(entry, "sentences", kind=list, where=where):
            number = _field(sentence, "sentid", kind=int, where=f"{where}, a sentence")
            # A null is an empty caption, which is left out with a remark as others are.
            null = sentence.get("raw", "") is None
            text = "" if null else _field(sentence, "raw", kind=str, where=f"{where}, sentence {number}")
            captions.append((number, text))
        folder, name = entry.get("filepath", ""), _field(entry, "filename", kind=str, where=where)
        file = f"{folder}/{name}" if folder else name
        number = None if id_field is None else _field(entry, id_field, kind=int, where=where)
        images.append(KarpathyImage(id=number, file=file, split=split, captions=captions))
    if twice := repeated(number for image in images for number, _ in image.captions):
        raise DatasetError(f"{path}: {len(twice):,} sentence ids are repeated: {listed(twice)}.")
    return images


def _field(entry, name: str, *, kind: type, where: str):
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = {int: "a whole number", str: "text", list: "a list"}[kind]
        actual = f"is {value!r}" if isinstance(entry, dict) and name in entry else "is not there"
        raise DatasetError(f"{where}: `{name}` {actual}; expected {expected}.")
    return value
