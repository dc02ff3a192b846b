import json
import shutil

import numpy as np
import pytest

from clipret.config import SPLITS
from clipret.datasets.coco import load_coco
from clipret.errors import DatasetError


def test_images_captions_and_splits_are_those_of_the_annotations(coco_root):
    dataset = load_coco(coco_root)
    assert len(dataset.image_ids) == 80
    for year, rows in (("train2017", range(60)), ("val2017", range(60, 80))):
        content = json.loads((coco_root / "annotations" / f"captions_{year}.json").read_text())
        files = {str(image["id"]): f"{year}/{image['file_name']}" for image in content["images"]}
        assert {dataset.image_ids[row]: dataset.image_files[row] for row in rows} == files
        for row in rows:
            own = [entry for entry in content["annotations"] if str(entry["image_id"]) == dataset.image_ids[row]]
            expected = [entry["caption"] for entry in sorted(own, key=lambda entry: entry["id"])]
            assert [dataset.captions[text] for text in np.flatnonzero(dataset.caption_images == row)] == expected
    assert (dataset.image_splits[60:] == SPLITS.index("test")).all()
    assert set(dataset.image_splits[:60]) <= {SPLITS.index("train"), SPLITS.index("val")}
    assert [int(image) for image in dataset.image_ids[:60]] == sorted(int(image) for image in dataset.image_ids[:60])


@pytest.fixture
def copy(coco_root, tmp_path):
    return shutil.copytree(coco_root, tmp_path / "coco")


def test_everything_that_is_missing_is_named(copy):
    (copy / "annotations" / "captions_val2017.json").unlink()
    shutil.rmtree(copy / "train2017")
    with pytest.raises(DatasetError, match=r"lacks annotations/captions_val2017.json, train2017\. Unpack .* --root"):
        load_coco(copy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"is not JSON \(Expecting value: line 1"),
        ('{"images": [', r"is not JSON \(Expecting value: line 1 column 13"),
        ("[]", "is not a COCO caption file"),
        ("{}", "is not a COCO caption file"),
        ('{"images": [{"file_name": "a.jpg"}], "annotations": []}', r"is not a COCO caption file \(KeyError: 'id'\)"),
        ('{"images": [{"id": 1}], "annotations": []}', r"is not a COCO caption file \(KeyError: 'file_name'\)"),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"id": 1, "image_id": 1}]}',
            r"is not a COCO caption file \(KeyError: 'caption'\)",
        ),
        (
            '{"images": [], "annotations": [{"id": 1, "caption": "x"}]}',
            r"is not a COCO caption file \(KeyError: 'image_id'",
        ),
    ],
)
def test_a_malformed_file_is_one_clear_line(copy, content, message):
    (copy / "annotations" / "captions_val2017.json").write_text(content)
    with pytest.raises(DatasetError, match=message) as caught:
        load_coco(copy)
    assert "\n" not in str(caught.value)
