"""Karpathy's 5,000 COCO test images, in his order, from the package `eccv-caption`."""

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
    # Located, not imported: its code is not needed, and warns about packages that it would like to have.
    spec = importlib.util.find_spec("eccv_caption")
    if spec is None:
        raise DatasetError(
            f"Karpathy's test ids are in the package `eccv-caption`, which is not installed; run: pip install "
            f"'clipret[karpathy]', or {otherwise}."
        )
    data = Path(spec.submodule_search_locations[0]) / "data"
    owners = json.loads((data / "original_caption_to_image.json").read_text())
    captions = np.load(data / "coco_test_ids.npy", allow_pickle=False)
    return list(dict.fromkeys(owners[str(caption)][0] for caption in captions))
