"""Categories are read from COCO's files of instances as they are, in any order and any spacing."""

import json

import pytest

from clipret.annotations.instances import read_instances

CATEGORIES = [{"supercategory": "animal", "id": 18, "name": "dog"}, {"id": 3, "name": "<b>car</b>"}]


def annotation(image, category, **more):
    return {"segmentation": [[1.5, 2.25]], "area": 1.0, **more, "image_id": image, "id": 1, "category_id": category}


ANNOTATIONS = [
    annotation(1, 18),
    annotation(1, 18),
    annotation(2, 3, iscrowd=1, segmentation={"counts": [3, 4], "size": [2, 2]}),
    {"category_id": 18, "image_id": 2},
    annotation(9, 3),
]
# Text that looks like what is searched for, within strings.
IMAGES = [{"id": 1, "file_name": '"image_id": 5, "category_id": 6', "flickr_url": '"categories": ['}]


def write(path, *, indent=None, **changes):
    content = {"images": IMAGES, "annotations": ANNOTATIONS, "categories": CATEGORIES, **changes}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}, indent=indent))
    return path


@pytest.mark.parametrize("indent", [None, 2])
def test_images_by_category(tmp_path, indent):
    path = write(tmp_path / "i.json", indent=indent)
    assert read_instances(path, images={1, 2, 3}) == {"<b>car</b>": {2}, "dog": {1, 2}}
    assert read_instances(path, images={3}) == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"annotations": [{"image_id": 1}, {"image_id": 2}]}, "not an image_id and a category_id each"),
        ({"annotations": [annotation(1, 18), {"image_id": 1}]}, "not an image_id and a category_id each"),
        ({"categories": None}, "it has no categories"),
        ({"categories": [{"id": 18}]}, "no list of ids and names"),
        ({"categories": [{"id": float("inf"), "name": "dog"}]}, "no list of ids and names"),
        ({"categories": CATEGORIES[:1]}, "category 3, which its categories do not name"),
    ],
)
def test_other_files_are_refused(tmp_path, changes, reason):
    with pytest.raises(ValueError, match=reason):
        read_instances(write(tmp_path / "i.json", **changes), images={1, 2})


def test_what_is_no_file_with_content_is_refused(tmp_path):
    with pytest.raises(OSError, match="it is a folder"):
        read_instances(tmp_path, images={1})
    (tmp_path / "empty.json").touch()
    with pytest.raises(ValueError, match="it is empty"):
        read_instances(tmp_path / "empty.json", images={1})
