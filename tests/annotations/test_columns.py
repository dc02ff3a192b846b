import dataclasses
import hashlib

import numpy as np
import pytest

from clipret.annotations import Annotations, concatenate


def annotations(prefix="", **changes):
    columns = {
        "image_ids": [f"{prefix}a", f"{prefix}b"],
        "image_files": [f"{prefix}a.jpg", f"{prefix}b.jpg"],
        "image_splits": np.array([0, 2], dtype=np.uint8),
        "captions": ["one", "two", "drei, ü"],
        "caption_images": np.array([0, 1, 1]),
    }
    return Annotations(**columns | changes)


def test_captions_without_ids_are_numbered_within_their_image():
    assert annotations().caption_ids == ["a#0", "b#0", "b#1"]
    assert annotations(caption_ids=["7", "8", "9"]).caption_ids == ["7", "8", "9"]


def test_the_hash_is_of_the_columns_one_after_the_other_as_json():
    text = '["a", "b"]["a.jpg", "b.jpg"][0, 2]["one", "two", "drei, ü"]["a#0", "b#0", "b#1"][0, 1, 1]'
    assert annotations().annotation_sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Annotations)])
def test_the_hash_changes_with_every_column(name):
    whole = annotations()
    changed = dataclasses.replace(whole, **{name: whole.columns[name][::-1]})
    assert changed.annotation_sha256 != whole.annotation_sha256


def test_the_columns_make_the_same_annotations_again():
    assert Annotations(**annotations().columns).annotation_sha256 == annotations().annotation_sha256


def test_concatenated_captions_keep_their_images():
    whole = concatenate([annotations("x"), annotations("y"), annotations("z")])
    assert whole.image_ids == ["xa", "xb", "ya", "yb", "za", "zb"]
    assert whole.image_splits.tolist() == [0, 2] * 3
    assert whole.image_splits.dtype == np.uint8
    owners = [whole.image_ids[row] for row in whole.caption_images]
    assert owners == ["xa", "xb", "xb", "ya", "yb", "yb", "za", "zb", "zb"]
    assert [name.partition("#")[0] for name in whole.caption_ids] == owners
