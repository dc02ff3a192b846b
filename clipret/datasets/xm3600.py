"""Crossmodal-3600 (XM3600): 3,600 images of all the world with captions in 36 languages, for testing."""

from pathlib import Path

import numpy as np

from clipret.annotations.languages import XM3600_CAPTIONS, tagged_id, unlike_published
from clipret.config import DATA_DIR, SPLITS, DatasetConfig
from clipret.datasets.base import RetrievalDataset
from clipret.datasets.parsing import is_there, listed, read_json_lines, repeated, shortened
from clipret.errors import DatasetError

_FILE = "captions.jsonl"
_FOLDERS = ("", "captions", "xm3600")
_IMAGE_FOLDERS = ("images", "xm3600", "")
_IMAGES = 3_600
# The image's id in the file, and of a language its captions as written.
_KEY, _CAPTIONS = "image/key", "caption"
_FETCH = (
    "Fetch captions.zip from https://google.github.io/crossmodal-3600 and the images from its link images.tgz, or say "
    "where they are with --root"
)


def load_xm3600(config: DatasetConfig) -> RetrievalDataset:
    """Read XM3600's captions.jsonl below config.root, data/xm3600 by default; all its images are `test`.

    The file has an object an image: `image/key`, and for each language an object whose `caption` is a list of texts. A
    caption's id begins with its language, by which `clipret eval --language` finds it. Images are KEY.jpg in `images`.

    Numbers of images and captions that are not the published ones are a remark.

    Raises DatasetError, with the line, when the file is missing or malformed.
    """
    root = config.root or DATA_DIR / "xm3600"
    path = next((root / folder / _FILE for folder in _FOLDERS if is_there(root / folder / _FILE)), None)
    if path is None:
        raise DatasetError(f"XM3600's {_FILE} is not in {root}. {_FETCH}.")
    keys, captions, ids, owners, counts = [], [], [], [], dict.fromkeys(XM3600_CAPTIONS, 0)
    for line, entry in read_json_lines(path):
        key = entry.get(_KEY)
        if not isinstance(key, str) or not key or "/" in key:
            raise DatasetError(f"{path}, line {line}: `{_KEY}` is {shortened(key)}; expected the name of an image.")
        for language in sorted(XM3600_CAPTIONS.keys() & entry):
            texts = _texts(entry[language], where=f"{path}, line {line}: `{language}`")
            captions += texts
            ids += [tagged_id(language, f"{key}#{place}") for place in range(len(texts))]
            owners += [len(keys)] * len(texts)
            counts[language] += len(texts)
        keys.append(key)
    if twice := repeated(keys):
        raise DatasetError(f"{path}: {len(twice):,} images are there twice: {listed(twice)}; download it again.")
    remarks = unlike_published("xm3600", counts)
    if len(keys) != _IMAGES:
        remarks.insert(0, f"{len(keys):,} images (published: {_IMAGES:,})")
    return RetrievalDataset(
        name="xm3600",
        root=root,
        image_ids=keys,
        image_files=_find_files(root, keys),
        image_splits=np.full(len(keys), SPLITS.index("test"), dtype=np.uint8),
        captions=captions,
        caption_ids=ids,
        caption_images=np.array(owners, dtype=np.int64),
        split_rule="all images are test",
        remarks=tuple(remarks),
    )


def _texts(value, *, where: str) -> list[str]:
    texts = value.get(_CAPTIONS) if isinstance(value, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DatasetError(f"{where} has {shortened(value)}; expected an object with `{_CAPTIONS}`, a list of texts.")
    return texts


def _find_files(root: Path, keys: list[str]) -> list[str]:
    """Below the first folder that has any of the first few images; below the published one where none has."""
    first = [f"{key}.jpg" for key in keys[:10]]
    folders = (folder for folder in _IMAGE_FOLDERS if any(is_there(root / folder / file) for file in first))
    folder = next(folders, _IMAGE_FOLDERS[0])
    return [f"{folder}/{key}.jpg" if folder else f"{key}.jpg" for key in keys]
