import json

import pytest

from clipret.config import SPLITS
from clipret.datasets.base import OWN_FRACTIONS, split_by_hash
from clipret.errors import DatasetError
from tests.helpers.own_data import load, write

LIST = [
    {"image": "p/a.jpg", "caption": ["a dot", None, "a spot"], "image_id": 7},
    {"image": "p/b.jpg", "caption": "a bee", "image_id": 8},
    {"image": "p/a.jpg", "caption": "one more", "image_id": 7},
]
KARPATHY = {
    "dataset": "mine",
    "images": [
        {
            "filepath": "p",
            "filename": f"{name}.jpg",
            "imgid": place,
            "split": split,
            "sentids": [2 * place, 2 * place + 1],
            "sentences": [
                {"raw": f"{name} {k}", "sentid": 2 * place + k, "imgid": place, "tokens": ["x"]} for k in (0, 1)
            ],
        }
        for place, (name, split) in enumerate([("b", "train"), ("a", "restval"), ("c", "test")])
    ],
}


def test_a_list_of_objects_is_a_table(tmp_path):
    dataset = load(write(tmp_path / "made.json", json.dumps(LIST)))
    assert dataset.image_files == ["p/a.jpg", "p/b.jpg"]
    assert dataset.image_ids == ["7", "8"]
    assert dataset.captions == ["a dot", "a spot", "one more", "a bee"]
    assert dataset.split_rule == "hash 80/10/10 of the images' ids"
    assert dataset.image_splits.tolist() == split_by_hash(["7", "8"], fractions=OWN_FRACTIONS).tolist()
    assert dataset.remarks == ("left out 1 empty caption, of 7",)


def test_the_fields_of_a_list_can_have_other_names_and_splits(tmp_path):
    entries = [
        {"file": f"{name}.jpg", "texts": [name], "fold": split, "image_id": 1}
        for name, split in (("a", "train"), ("b", "dev"), ("c", "test"))
    ]
    path = write(tmp_path / "made.json", json.dumps(entries))
    dataset = load(path, columns="image=file,caption=texts,split=fold,id=file")
    assert dataset.image_ids == ["a.jpg", "b.jpg", "c.jpg"]
    assert [SPLITS[code] for code in dataset.image_splits] == ["train", "val", "test"]


def test_an_id_that_only_some_objects_have_is_set_aside_with_a_remark(tmp_path):
    entries = [{"image": "a.jpg", "caption": "one"}, {"image": "b.jpg", "caption": "two", "image_id": 7}]
    dataset = load(write(tmp_path / "made.json", json.dumps(entries)))
    assert dataset.image_ids == ["a.jpg", "b.jpg"]
    assert dataset.remarks == ("1 row of 2 without an id, so that the files are the ids",)


def test_karpathys_form_is_read_with_its_splits(tmp_path):
    path = write(tmp_path / "made.json", json.dumps(KARPATHY))
    dataset = load(path)
    assert dataset.name == "made"
    assert dataset.image_files == dataset.image_ids == ["p/b.jpg", "p/a.jpg", "p/c.jpg"]
    assert dataset.captions == ["b 0", "b 1", "a 0", "a 1", "c 0", "c 1"]
    assert dataset.caption_ids == ["0", "1", "2", "3", "4", "5"]
    assert [SPLITS[code] for code in dataset.image_splits] == ["train", "restval", "test"]
    assert dataset.split_rule == "given"
    bare = {"images": [{k: v for k, v in image.items() if k != "split"} for image in KARPATHY["images"]]}
    assert load(write(tmp_path / "bare.json", json.dumps(bare)), split="hash").captions == dataset.captions
    assert load(path, split="hash").split_rule == "hash 80/10/10 of the images' paths"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "PATH has nothing; expected FORMS."),
        ('{"data": [], "info": 1}', "PATH has data, info; expected FORMS."),
        ("3", "PATH is neither a list nor an object; expected FORMS."),
        ('"text"', "PATH is neither a list nor an object; expected FORMS."),
        (
            '{"images": [3]}',
            "PATH is not a COCO caption file: it has images; expected lists images and annotations.",
        ),
        ('["a.jpg"]', "PATH, entry 1: expected a JSON object, found str."),
        (
            json.dumps([LIST[1], {"image": "x.jpg"}]),
            "PATH, entry 2 has no `caption`; expected the caption by this name in every entry.",
        ),
        (
            json.dumps([{"file": "x.jpg", "caption": "x"}]),
            "PATH has no column `image`; its columns are: file, caption. Say which they are with --columns image=NAME",
        ),
        (
            json.dumps([LIST[1] | {"id": 1}]),
            "PATH has columns image_id and id; expected one for the id: name it with --columns id=NAME, or take the "
            "other out.",
        ),
        (
            json.dumps([LIST[1], LIST[1] | {"image_id": 9}]),
            "PATH, entry 2: p/b.jpg has id 9 here, and has id 8 on entry 1; expected one id a file, or the files as "
            "ids, with id=image in --columns.",
        ),
        (
            json.dumps({"images": [KARPATHY["images"][0] | {"split": "dev"}]}),
            "PATH: images[0] has split 'dev'; expected one of: train, val, test, restval.",
        ),
        (
            json.dumps({"images": [KARPATHY["images"][0] | {"filename": "a\0.jpg"}]}),
            "data set 'made': the id of image 'p/a\\x00.jpg' has a NUL character: 'p/a\\x00.jpg'; fix it.",
        ),
        (
            json.dumps({"images": [KARPATHY["images"][0] | {"filepath": "\ud800"}]}),
            "data set 'made': the id of image '\\ud800/b.jpg' has half a surrogate pair ('\\ud800'), which is no "
            "character: '\\ud800/b.jpg'; fix it.",
        ),
        (
            json.dumps({"images": [*KARPATHY["images"], KARPATHY["images"][0]]}),
            "PATH: 2 sentence ids are repeated: 0, 1.",
        ),
        (
            json.dumps({"images": [KARPATHY["images"][0], KARPATHY["images"][1] | {"filename": "b.jpg"}]}),
            "PATH: 1 files are of more than one image: p/b.jpg; expected a separate file for every id.",
        ),
    ],
)
def test_what_is_of_no_such_form_is_one_clear_line(tmp_path, content, message):
    path = write(tmp_path / "made.json", content)
    forms = (
        "a list of objects with image and caption, COCO's lists images and annotations, or Karpathy's images with "
        "sentences"
    )
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == message.replace("PATH", str(path)).replace("FORMS", forms)
