"""One JSON file of the user's own: COCO's form, Karpathy's, or a list of objects with image and caption."""

from pathlib import Path

import numpy as np

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets.base import RetrievalDataset, own_splits
from clipret.datasets.coco_json import captions_of
from clipret.datasets.karpathy import karpathy_images
from clipret.datasets.parsing import listed, read_json, repeated
from clipret.datasets.paths import ImagePaths
from clipret.datasets.table import load_table
from clipret.datasets.table_files import list_table
from clipret.errors import DatasetError

# As the lists of BLIP and ALBEF have them.
_LIST_COLUMNS = {"caption": ("caption", "captions"), "id": ("id", "image_id")}
_FORMS = (
    "a list of objects with image and caption, COCO's lists images and annotations, or Karpathy's images with sentences"
)


def load_json(config: DatasetConfig) -> RetrievalDataset:
    """Read a JSON file of a form that its content shows.

    COCO's caption file   images ascending by id, split by a hash of it
    Karpathy's            images in the file's order, under their files as ids, with the splits that it says
    a list of objects     a table: a caption, or the list of an image's captions, an object; `image_id` may be the id

    Raises DatasetError, with the place, when it is not JSON, of no such form or malformed.
    """
    path = Path(config.dataset)
    content = read_json(path)
    if isinstance(content, list):
        return load_table(config, table=list_table(path, content), usual=_LIST_COLUMNS)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        actual = (
            f"has {listed(content) or 'nothing'}" if isinstance(content, dict) else "is neither a list nor an object"
        )
        raise DatasetError(f"{path} {actual}; expected {_FORMS}.")
    first = next(iter(content["images"]), None)
    if "annotations" not in content and isinstance(first, dict) and "sentences" in first:
        return _load_karpathy(content, config)
    return _load_coco(content, config)


def _load_coco(content: dict, config: DatasetConfig) -> RetrievalDataset:
    images = captions_of(content, Path(config.dataset))
    return _dataset(
        config,
        ids=[str(image.id) for image in images],
        files=[image.file_name for image in images],
        captions=[image.captions for image in images],
        splits=None,
    )


def _load_karpathy(content: dict, config: DatasetConfig) -> RetrievalDataset:
    by_hash = config.split == "hash"
    images = karpathy_images(content, Path(config.dataset), splits=not by_hash)
    return _dataset(
        config,
        ids=None,
        files=[image.file for image in images],
        captions=[image.captions for image in images],
        splits=None if by_hash else [SPLITS.index(image.split) for image in images],
    )


def _dataset(
    config: DatasetConfig,
    *,
    ids: list[str] | None,
    files: list[str],
    captions: list[list[tuple[int, str]]],
    splits: list[int] | None,
) -> RetrievalDataset:
    """The data set of these images, each with the (id, text) of its captions; without ids, the paths are these."""
    path = Path(config.dataset)
    root = config.root or path.parent
    paths = ImagePaths(root)
    read = [paths.read(file) for file in files]
    # An image under two ids could be in two splits.
    if twice := repeated(read):
        raise DatasetError(
            f"{path}: {len(twice):,} files are of more than one image: {listed(twice)}; expected a separate file for "
            f"every id."
        )
    hint = "a table with a column `split` instead"
    codes, rule = own_splits(ids or read, config, codes=splits, hint=hint, of="ids" if ids else "paths")
    return RetrievalDataset(
        name=path.stem,
        root=root,
        image_ids=ids or read,
        image_files=read,
        image_splits=codes,
        captions=[text for own in captions for _, text in own],
        caption_ids=[str(number) for own in captions for number, _ in own],
        caption_images=np.repeat(np.arange(len(files)), [len(own) for own in captions]),
        split_rule=rule,
        remarks=paths.remarks,
    )
