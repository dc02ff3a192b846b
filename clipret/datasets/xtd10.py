"""XTD10: 1,000 images of COCO with a caption in each of eleven languages, for testing."""

import re
from pathlib import Path

import numpy as np

from clipret.annotations.languages import tagged_id, unlike_published
from clipret.config import DATA_DIR, SPLITS, DatasetConfig
from clipret.datasets.base import RetrievalDataset
from clipret.datasets.coco import find_files
from clipret.datasets.coco_json import CocoImage
from clipret.datasets.parsing import listed, read_text, repeated
from clipret.errors import DatasetError

NAMES_FILE = "test_image_names.txt"
_CAPTIONS_FILE = re.compile(r"test_1kcaptions_([a-z]{2})\.txt")
# As its repository has them: XTD10 beside MIC (German, French) and STAIR (Japanese).
_PATTERNS = ("test_*.txt", "*/test_*.txt", "*/*/test_*.txt")
_IMAGES = 1_000
# The language's own code, for the country's in the file's name.
_CODES = {"jp": "ja"}
_IMAGE_NAME = re.compile(r"COCO_(?:train|val)2014_(\d{12})\.jpg")
_FETCH = (
    "Clone https://github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10 there, put or link COCO's train2014 and "
    "val2014 beside it, or say where they are with --root"
)


def load_xtd10(config: DatasetConfig) -> RetrievalDataset:
    """Read XTD10's files below config.root, data/xtd10 by default; all its images are `test`.

    test_image_names.txt has an image's name a line, and test_1kcaptions_LANGUAGE.txt its caption on the same line, in
    whatever folders below the root. A caption's id begins with its language, by which `clipret eval --language` finds
    it. Images are COCO's, under the names of 2014 or 2017.

    Numbers of images and languages that are not the published ones are a remark.

    Raises DatasetError when a file is missing or malformed, or has not a line an image.
    """
    root = config.root or DATA_DIR / "xtd10"
    paths = sorted({path for pattern in _PATTERNS for path in root.glob(pattern)})
    names_path = next((path for path in paths if path.name == NAMES_FILE), None)
    files = {path: match[1] for path in paths if (match := _CAPTIONS_FILE.fullmatch(path.name))}
    if names_path is None or not files:
        lacks = NAMES_FILE if names_path is None else "test_1kcaptions_en.txt and the like"
        raise DatasetError(f"XTD10's {lacks} is not in {root} or the folders in it. {_FETCH}.")
    if twice := repeated(files.values()):
        where = listed(path.relative_to(root) for path, language in files.items() if language in twice)
        raise DatasetError(f"{root} has the captions of {listed(twice)} twice: {where}; take one of them away.")
    images = _images(names_path)
    by_language = {_CODES.get(code, code): _lines(path) for path, code in files.items()}
    for path, code in files.items():
        count = len(by_language[_CODES.get(code, code)])
        if count != len(images):
            raise DatasetError(
                f"{path} has {count:,} lines, and {names_path.name} has {len(images):,}; expected a caption an image: "
                f"download it again."
            )
    remarks = unlike_published("xtd10", {language: len(lines) for language, lines in sorted(by_language.items())})
    if len(images) != _IMAGES:
        remarks.insert(0, f"{len(images):,} images (published: {_IMAGES:,})")
    languages = sorted(by_language)
    ids = [str(image.id) for image in images]
    return RetrievalDataset(
        name="xtd10",
        root=root,
        image_ids=ids,
        image_files=find_files(root, images),
        image_splits=np.full(len(images), SPLITS.index("test"), dtype=np.uint8),
        captions=[by_language[language][row] for row in range(len(images)) for language in languages],
        caption_ids=[tagged_id(language, name) for name in ids for language in languages],
        caption_images=np.repeat(np.arange(len(images)), len(languages)),
        split_rule="all images are test",
        remarks=tuple(remarks),
    )


def _images(path: Path) -> list[CocoImage]:
    images = []
    for number, line in enumerate(_lines(path), start=1):
        match = _IMAGE_NAME.fullmatch(line)
        if match is None:
            raise DatasetError(f"{path}, line {number} is {line[:60]!a}; expected a name of COCO's images of 2014.")
        images.append(CocoImage(id=int(match[1]), file_name=line, captions=[]))
    if twice := repeated(image.id for image in images):
        raise DatasetError(f"{path}: {len(twice):,} images are there twice: {listed(twice)}; download it again.")
    return images


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).rstrip("\n").split("\n")]
