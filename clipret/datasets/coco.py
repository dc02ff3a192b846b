"""MS-COCO captions, 2017 release: val2017 is the test split, train2017 is cut into train and val."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np

from clipret.config import DATA_DIR, SPLITS
from clipret.datasets.base import RetrievalDataset, split_by_hash
from clipret.errors import DatasetError

SPLIT_FRACTIONS = {"train": 0.95, "val": 0.05}


def load_coco(root: Path | None = None) -> RetrievalDataset:
    """Read COCO 2017 as it is published.

    root  folder with annotations/captions_{train,val}2017.json and the image folders train2017 and val2017;
          data/coco by default

    Images in the order of their integer ids, train2017 first; all captions of an image in the order of their ids.
    val2017 is `test`; 5 % of train2017, by a hash of the image id, is `val`.

    Raises DatasetError when a file is missing or is not COCO caption JSON.
    """
    root = Path(root or DATA_DIR / "coco")
    parts = {year: root / "annotations" / f"captions_{year}.json" for year in ("train2017", "val2017")}
    missing = [path for path in (*parts.values(), *(root / year for year in parts)) if not path.exists()]
    if missing:
        raise DatasetError(
            f"COCO 2017 is not whole at {root}: it lacks {', '.join(str(path.relative_to(root)) for path in missing)}. "
            f"Unpack captions and images from cocodataset.org there, or say where they are with --root (make: ROOT=)."
        )
    ids, files, captions, owners, is_test = [], [], [], [], []
    for year, path in parts.items():
        for image_id, file_name, texts in _images_with_captions(path):
            owners += [len(ids)] * len(texts)
            captions += texts
            ids.append(str(image_id))
            files.append(f"{year}/{file_name}")
            is_test.append(year == "val2017")
    splits = split_by_hash(ids, fractions=SPLIT_FRACTIONS)
    splits[np.array(is_test, dtype=bool)] = SPLITS.index("test")
    return RetrievalDataset("coco", root, ids, files, splits, captions, np.array(owners, dtype=np.int64))


def _images_with_captions(path: Path) -> list[tuple[int, str, list[str]]]:
    """(image id, file name, captions) of one annotation file, ascending by id; images without captions included."""
    from pycocotools.coco import COCO

    try:
        # pycocotools prints its timings.
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(path)
        # pycocotools takes a file without them for an empty data set.
        _ = coco.dataset["images"], coco.dataset["annotations"]
        return [
            (
                image_id,
                coco.imgs[image_id]["file_name"],
                [entry["caption"] for entry in sorted(coco.imgToAnns[image_id], key=lambda entry: entry["id"])],
            )
            for image_id in sorted(coco.imgs)
        ]
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path} is not JSON ({error}); fetch it again.") from None
    except (KeyError, TypeError, AttributeError, AssertionError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path} is not a COCO caption file ({type(error).__name__}: {error}); expected `images` with id and "
            f"file_name, and `annotations` with id, image_id and caption."
        ) from None
