import json

import pytest

from clipret.config import SPLITS
from clipret.errors import DatasetError
from clipret.images import read_file
from tests.helpers.hub import image, images, picture, save_splits, save_to_disk
from tests.helpers.own_data import load

COLOURS = ("red", "green", "blue", "white", "black")
CELLS = [image(colour, f"{colour}.png") for colour in COLOURS]
TEXTS = [[f"{colour} one", f"{colour} two"] for colour in COLOURS]


@pytest.mark.parametrize("files", [1, 2])
def test_a_saved_data_set_is_read_in_place(tmp_path, files):
    folder = save_to_disk(tmp_path / "shop", {"image": images(CELLS), "caption": TEXTS}, files=files)
    before = sorted(folder.iterdir())
    dataset = load(folder)
    assert dataset.name == "shop"
    assert dataset.image_ids == [f"{colour}.png" for colour in COLOURS]
    assert dataset.captions == [text for own in TEXTS for text in own]
    assert dataset.image_files[0] == f"data-00000-of-0000{files}.arrow/image#0/red.png"
    assert [read_file(file, root=dataset.root) for file in dataset.image_files] == list(map(picture, COLOURS))
    assert not len(dataset.missing_rows())
    assert sorted(folder.iterdir()) == before


def test_a_saved_dictionary_has_a_folder_for_each_split(tmp_path):
    splits = {
        name: {"image": images([cell]), "caption": [text]}
        for name, cell, text in zip(("train", "validation", "TEST"), CELLS, TEXTS, strict=False)
    }
    dataset = load(save_splits(tmp_path / "shop", splits))
    assert [SPLITS[code] for code in dataset.image_splits] == ["train", "val", "test"]
    assert dataset.image_files[1] == "validation/data-00000-of-00001.arrow/image#0/green.png"
    assert dataset.split_rule == "given"


def test_a_table_of_karpathys_is_one_when_saved(tmp_path):
    columns = {
        "image": images(CELLS[:2]),
        "caption": TEXTS[:2],
        "sentids": [["0", "1"], ["2", "3"]],
        "split": ["test", "train"],
        "img_id": ["1", "0"],
        "filename": ["11.jpg", "10.jpg"],
    }
    dataset = load(save_splits(tmp_path / "shop", {"test": columns}))
    assert dataset.image_ids == ["10", "11"]
    assert dataset.caption_ids == ["2", "3", "0", "1"]
    assert read_file(dataset.image_files[0], root=dataset.root) == picture("green")


def test_paths_of_images_start_from_the_root(tmp_path):
    splits = {name: {"image": [f"{name}.jpg"], "caption": ["one"]} for name in ("train", "test")}
    folder = save_splits(tmp_path / "shop", splits)
    (tmp_path / "photos").mkdir()
    dataset = load(folder, root=tmp_path / "photos")
    assert (dataset.name, dataset.root) == ("shop", tmp_path / "photos")
    assert dataset.image_files == ["train.jpg", "test.jpg"]
    assert dataset.image_splits.tolist() == [SPLITS.index("train"), SPLITS.index("test")]


def broken(folder, damage):
    path = folder / "state.json"
    state = json.loads(path.read_text())
    if damage == "missing":
        (folder / "data-00000-of-00001.arrow").unlink()
    elif damage == "json":
        path.write_text("{")
    else:
        path.write_text(json.dumps(state | damage))


REFUSED = {
    "missing": ("missing", "PATH lacks data-00000-of-00001.arrow, which state.json names; copy it again, whole."),
    "json": (
        "json",
        "PATH/state.json is not JSON: expecting property name enclosed in double quotes, line 1, column 2 (byte 1); "
        "fix it, or download it again.",
    ),
    "no-files": (
        {"_data_files": []},
        "PATH/state.json: `_data_files` is []; expected the names of Arrow files, as save_to_disk writes.",
    ),
    "outside": (
        {"_data_files": [{"filename": "../x.arrow"}]},
        "PATH/state.json: `_data_files` is [{'filename': '../x.arrow'}]; expected the names of Arrow files, as "
        "save_to_disk writes.",
    ),
    "indices": (
        {"_indices_data_files": [{"filename": "indices.arrow"}]},
        "PATH/state.json: the rows are in the order of another file, of indices, as old versions of `datasets` save "
        "them; save it again after flatten_indices().",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_whole_is_one_clear_line(tmp_path, name):
    damage, message = REFUSED[name]
    folder = save_to_disk(tmp_path / "shop", {"image": images(CELLS), "caption": TEXTS})
    broken(folder, damage)
    with pytest.raises(DatasetError) as caught:
        load(folder)
    assert str(caught.value) == message.replace("PATH", str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"splits": []}, "`splits` is []; expected a list of split names."),
        ([], "`splits` is None; expected a list of split names."),
        ({"splits": ["../x"]}, "../x cannot be folders in PATH."),
    ],
)
def test_a_broken_list_of_splits_is_one_clear_line(tmp_path, content, message):
    (tmp_path / "dataset_dict.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"{tmp_path}/dataset_dict.json: {message}".replace("PATH", str(tmp_path))
