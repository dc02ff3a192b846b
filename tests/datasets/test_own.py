import json
import os

import pytest

from clipret.config import SPLITS
from clipret.datasets import OWN
from clipret.datasets.base import OWN_FRACTIONS, split_by_hash, split_code
from clipret.errors import DatasetError
from tests.helpers.own_data import load, write

COCO = {
    "images": [
        {"id": 30, "file_name": "deep/c.jpg", "height": 4},
        {"id": 4, "file_name": "a.png"},
        {"id": 7, "file_name": "b.jpg"},
    ],
    "annotations": [
        {"id": 9, "image_id": 4, "caption": "second, über 🐕"},
        {"id": 3, "image_id": 30, "caption": 'a "red" dog\nrunning'},
        {"id": 5, "image_id": 4, "caption": "first"},
        {"id": 6, "image_id": 4, "caption": " "},
    ],
    "info": {},
}
_LABELS = [reader.label for reader in OWN.values()]
FORMS = f"{', '.join(_LABELS[:-1])} or {_LABELS[-1]}"


def changed(part, place, **fields):
    """COCO with one entry's fields changed; None takes one out."""
    content = json.loads(json.dumps(COCO))
    for name, value in fields.items():
        content[part][place][name] = value
        if value is None:
            del content[part][place][name]
    return json.dumps(content)


def test_a_coco_caption_file_is_read_with_its_own_ids(tmp_path):
    dataset = load(write(tmp_path / "made.json", json.dumps(COCO)))
    assert dataset.name == "made"
    assert dataset.root == tmp_path
    assert dataset.image_ids == ["4", "7", "30"]
    assert dataset.image_files == ["a.png", "b.jpg", "deep/c.jpg"]
    assert dataset.captions == ["first", "second, über 🐕", 'a "red" dog\nrunning']
    assert dataset.caption_ids == ["5", "9", "3"]
    assert dataset.caption_images.tolist() == [0, 0, 2]
    assert dataset.image_splits.tolist() == split_by_hash(["4", "7", "30"], fractions=OWN_FRACTIONS).tolist()
    assert dataset.split_rule == "hash 80/10/10 of the images' ids"
    assert dataset.remarks == (
        "left out 1 empty caption, of 4",
        "1 image without a caption, in the gallery only",
    )


def test_the_images_of_a_coco_caption_file_can_be_elsewhere(tmp_path):
    (tmp_path / "images").mkdir()
    dataset = load(write(tmp_path / "made.json", json.dumps(COCO)), root=tmp_path / "images")
    assert dataset.root == tmp_path / "images"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "",
            "PATH is not JSON: expecting value, line 1, column 1 (byte 0); fix it, or download it again.",
        ),
        (
            '{"images": [',
            "PATH is not JSON: expecting value, line 1, column 13 (byte 12); fix it, or download it again.",
        ),
        (b'{"images": "\xff"}', "PATH is not UTF-8 text: byte 12 is 0xff; save it as UTF-8 (iconv -t utf-8)."),
        ("[" * 100_000, "PATH: it nests too deep to be read; fix it, or download it again."),
        (
            '{"images": [' + "7" * 5000 + "]}",
            "PATH: it has a number with too many digits to be read; fix it, or download it again.",
        ),
        ("[]", "PATH is an empty list; expected a JSON object for every caption."),
        ('{"images": []}', "PATH is not a COCO caption file: it has images; expected lists images and annotations."),
        ('{"images": [], "annotations": []}', "data set 'made' at ROOT has no images; extraction needs at least one."),
        (
            json.dumps(COCO | {"annotations": []}),
            "data set 'made' at ROOT has no captions; extraction needs at least one.",
        ),
        (
            changed("images", 1, file_name=None),
            "PATH: file_name of images[1] is not there; expected text, as in COCO's caption files.",
        ),
        (
            changed("images", 0, id="30"),
            "PATH: id of images[0] is '30'; expected a whole number, as in COCO's caption files.",
        ),
        (
            changed("annotations", 2, caption=None),
            "PATH: caption of annotations[2] is not there; expected text, as in COCO's caption files.",
        ),
        (
            changed("annotations", 2, image_id=8),
            "PATH: 1 captions are of images that it does not list: 8; expected every image_id among the ids of "
            "`images`.",
        ),
        (
            changed("images", 1, id=7),
            "PATH: 1 ids are repeated among images: 7; expected each once.",
        ),
        (
            changed("images", 1, file_name="b.jpg"),
            "PATH: 1 files are of more than one image: b.jpg; expected a separate file for every id.",
        ),
        (
            changed("images", 1, file_name="../b.jpg"),
            "data set 'made': 1 image files are outside ROOT: ../b.jpg; expected paths relative to it, with forward "
            "slashes and without `..`.",
        ),
        (
            changed("annotations", 0, caption="bad \ud800"),
            "data set 'made': a caption of image '4' has half a surrogate pair ('\\ud800'), which is no character: "
            "'bad \\ud800'; fix it.",
        ),
        (
            changed("images", 2, file_name="b\0.jpg"),
            "data set 'made': the file of image '7' has a NUL character: 'b\\x00.jpg'; fix it.",
        ),
    ],
)
def test_a_malformed_coco_caption_file_is_one_clear_line(tmp_path, content, message):
    path = write(tmp_path / "made.json", content)
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == message.replace("PATH", str(path)).replace("ROOT", str(tmp_path))


def test_a_coco_caption_file_has_no_split_to_give(tmp_path):
    path = write(tmp_path / "made.json", json.dumps(COCO))
    with pytest.raises(DatasetError) as caught:
        load(path, split="given")
    assert str(caught.value) == (
        f"--split is 'given', and {path} does not say which split its images are in; expected a table with a column "
        f"`split` instead, or use --split hash."
    )


@pytest.mark.parametrize("name", ["nothing.csv", "nothing.json", "nothing/deep", "nothing.xyz", "./" + "x" * 300])
def test_a_path_with_nothing_at_it_is_said(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == f"there is no data set at {path}; expected {FORMS}."


def test_a_name_too_long_for_a_file_is_an_unknown_data_set():
    with pytest.raises(
        DatasetError, match=r"^unknown data set 'x+'; expected one of emoji, coco, flickr30k, xm3600, xtd10, or the"
    ):
        load("x" * 300)


@pytest.mark.parametrize(
    ("name", "ending"), [("made.xlsx", "the ending .xlsx"), ("made.csv.gz", "the ending .gz"), ("made", "no ending")]
)
def test_a_file_of_an_unknown_kind_is_said(tmp_path, name, ending):
    path = write(tmp_path / name, "image,caption\n")
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == f"{path} has {ending}; expected {FORMS}."


@pytest.mark.parametrize("root", ["nothing", "made.csv"])
def test_a_root_that_is_no_folder_is_said(tmp_path, root):
    path = write(tmp_path / "made.csv", "image,caption\na.jpg,one\n")
    with pytest.raises(DatasetError) as caught:
        load(path, root=tmp_path / root)
    assert str(caught.value) == (
        f"--root {tmp_path / root} is not a folder; expected the folder that image paths start from."
    )


def test_a_table_or_folder_with_tar_in_its_name_is_what_it_is(tmp_path):
    folder = tmp_path / "made.tar.d"
    folder.mkdir()
    write(folder / "a.jpg", "")
    write(folder / "a.txt", "one")
    assert load(folder).name == "made.tar.d"
    assert load(write(folder / "b.tar.csv", "image,caption\na.jpg,one\n")).name == "b.tar"


def test_a_folder_is_named_whatever_way_it_is_written(tmp_path, monkeypatch):
    folder = tmp_path / "made"
    (folder / "deep").mkdir(parents=True)
    write(folder / "a.jpg", "")
    write(folder / "a.txt", "one")
    monkeypatch.chdir(folder)
    assert load(f".{os.sep}").name == "made"
    assert load("deep/..").name == "made"
    assert load(f"{folder}{os.sep}").name == "made"


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("train", "training", " Train "), "train"),
        (("val", "valid", "validation", "dev", "VAL"), "val"),
        (("test", "testing"), "test"),
        (("restval",), "restval"),
        (("", "tests", "trainval", "0"), None),
    ],
)
def test_splits_are_known_by_their_usual_names(names, split):
    assert {split_code(name) for name in names} == {None if split is None else SPLITS.index(split)}


@pytest.mark.parametrize(
    ("mark", "name"),
    [
        ("annotations/captions_train2017.json", "coco"),
        ("dataset_coco.json", "coco"),
        ("dataset_flickr30k.json", "flickr30k"),
        ("results_20130124.token", "flickr30k"),
    ],
)
def test_the_folder_of_a_known_data_set_is_not_read_as_ones_own(tmp_path, mark, name):
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    write(tmp_path / mark, "")
    with pytest.raises(DatasetError) as caught:
        load(tmp_path)
    assert (
        str(caught.value)
        == f"{tmp_path} has the annotations of {name}; read it with: --dataset {name} --root {tmp_path}"
    )
