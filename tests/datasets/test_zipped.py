import json
import zipfile

import pytest

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets import load_dataset
from clipret.errors import DatasetError
from clipret.images import read_file
from tests.helpers.own_data import load, make

FILES = {"train/a.jpg": "A", "train/a.txt": "one\ntwo\n", "test/b.png": "B", "test/b.txt": "three\n"}


def packed(path, files, prefix=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


@pytest.mark.parametrize("prefix", ["", "shop/"])
def test_a_zip_file_is_the_folder_that_was_packed(tmp_path, prefix):
    files = FILES | {".DS_Store": "x", "stray.txt": "x"}
    zipped = load(packed(tmp_path / "shop.zip", files, prefix))
    folder = load(make(tmp_path / "unpacked", {f"{prefix}{name}": content for name, content in files.items()}))
    assert zipped.image_ids == folder.image_ids == [f"{prefix}test/b.png", f"{prefix}train/a.jpg"]
    assert zipped.captions == folder.captions == ["three", "one", "two"]
    assert [SPLITS[code] for code in zipped.image_splits] == ["test", "train"]
    assert zipped.image_files == [f"shop.zip/{name}" for name in zipped.image_ids]
    assert zipped.remarks == (f"1 text file of no image left out: {prefix}stray.txt",)
    assert [read_file(name, root=zipped.root) for name in zipped.image_files] == [b"B", b"A"]
    hashed = [load(path, split="hash").image_splits.tolist() for path in (tmp_path / "shop.zip", tmp_path / "unpacked")]
    assert hashed[0] == hashed[1]


REFUSED = {
    "no-images": (
        {"a.txt": "one"},
        "PATH has no images; expected members ending in .bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp.",
    ),
    "no-captions": (
        {"x/a.jpg": "", "captions.csv": "image,caption\n"},
        "PATH has 1 image and no captions; expected beside an image a text file of the same name, such as x/a.txt. If "
        "a table has them, put it beside the zip file, and give the table.",
    ),
    "one-stem": (
        {"a.jpg": "", "a.png": "", "a.txt": "one"},
        "PATH: 1 image differ from others only in their endings: a; give them different names, as a text file belongs "
        "to the image with the same name.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_zip_file_that_is_no_data_set_is_one_clear_line(tmp_path, name):
    files, message = REFUSED[name]
    path = packed(tmp_path / "x.zip", files)
    with pytest.raises(DatasetError) as caught:
        load(path)
    assert str(caught.value) == message.replace("PATH", str(path))


@pytest.mark.parametrize("member", ["photos/a.jpg", "a.jpg", "deep/photos/a.jpg"])
def test_images_of_a_table_are_read_from_the_zip_file_beside_it(tmp_path, member):
    make(tmp_path, {"shop.csv": "image,caption\nphotos/a.jpg,one\nphotos/b.jpg,two\n", "photos/b.jpg": "B"})
    packed(tmp_path / "photos.zip", {member: "A", "other.jpg": "x"})
    dataset = load(tmp_path / "shop.csv")
    assert dataset.image_ids == ["photos/a.jpg", "photos/b.jpg"]
    assert dataset.image_files == [f"photos.zip/{member}", "photos/b.jpg"]
    assert dataset.remarks == ("1 image read from photos.zip",)
    assert not len(dataset.missing_rows())


def test_a_table_may_name_the_members_itself(tmp_path):
    make(tmp_path, {"shop.csv": "image,caption\nphotos.zip/x/a.jpg,one\n"})
    packed(tmp_path / "photos.zip", {"x/a.jpg": "A"})
    dataset = load(tmp_path / "shop.csv")
    assert dataset.image_files == ["photos.zip/x/a.jpg"]
    assert not len(dataset.missing_rows())


def test_two_members_that_fit_are_refused(tmp_path):
    make(tmp_path, {"shop.csv": "image,caption\na.jpg,one\n"})
    packed(tmp_path / "photos.zip", {"x/a.jpg": "A", "y/a.jpg": "B"})
    with pytest.raises(DatasetError) as caught:
        load(tmp_path / "shop.csv")
    assert str(caught.value) == (
        f"data set 'shop': a.jpg is not in {tmp_path}, and photos.zip/x/a.jpg, photos.zip/y/a.jpg fit; write the one "
        f"that is meant."
    )


def test_coco_is_read_from_its_zip_files(tmp_path):
    for year, number in (("train2017", 9), ("val2017", 139)):
        name = f"{number:012d}.jpg"
        content = {
            "images": [{"id": number, "file_name": name}],
            "annotations": [{"id": number, "image_id": number, "caption": "one"}],
        }
        make(tmp_path, {f"annotations/captions_{year}.json": json.dumps(content)})
        packed(tmp_path / f"{year}.zip", {f"{year}/{name}": year})
    dataset = load_dataset(DatasetConfig(dataset="coco", root=tmp_path))
    assert dataset.image_files == [
        "train2017.zip/train2017/000000000009.jpg",
        "val2017.zip/val2017/000000000139.jpg",
    ]
    assert [read_file(name, root=tmp_path) for name in dataset.image_files] == [b"train2017", b"val2017"]
