import io
import tarfile
import zipfile

import pytest

from clipret.config import DownloadConfig
from clipret.datasets.downloads import flickr30k as flickr30k_files
from clipret.datasets.downloads.stage import download
from clipret.datasets.downloads.watch import LOCK
from clipret.errors import DatasetError

IMAGES = {f"{number}.jpg": f"image {number}".encode() for number in (36979, 65567, 81641)}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(flickr30k_files, "IMAGES", len(IMAGES))
    (tmp_path / "my data").mkdir()
    return tmp_path / "my data"


def get(root, **changes):
    steps = []
    result = download(DownloadConfig("flickr30k", root=root, **changes), on_progress=steps.append)
    return result, steps


def put_images(root, count=None):
    (root / "flickr30k-images").mkdir()
    for name, content in list(IMAGES.items())[:count]:
        (root / "flickr30k-images" / name).write_bytes(content)


def put_image_archive(root, name="flickr30k-images.tar.gz", mode="w:gz", **extra):
    with tarfile.open(root / name, mode) as archive:
        folder = tarfile.TarInfo("flickr30k-images")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        files = IMAGES | {"._36979.jpg": b"no image", "readme.txt": b"read me"}
        for file, content in [(f"flickr30k-images/{file}", content) for file, content in files.items()] + [
            *extra.items()
        ]:
            info = tarfile.TarInfo(file)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def put_split_archive(root):
    with zipfile.ZipFile(root / "caption_datasets.zip", "w") as archive:
        for name in ("coco", "flickr8k", "flickr30k"):
            archive.writestr(f"dataset_{name}.json", "{}")


def put_token_archive(root):
    with tarfile.open(root / "flickr30k.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("results_20130124.token")
        archive.addfile(info, io.BytesIO())


def names(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - {LOCK}


def test_a_folder_that_is_not_there_gets_instructions_and_is_not_made(tmp_path):
    root = tmp_path / "flickr30k"
    result, steps = get(root)
    assert not root.exists()
    assert steps == []
    assert result.pop("seconds") >= 0
    assert result == {
        "dataset": "flickr30k",
        "root": str(root),
        "whole": False,
        "images": 0,
        "annotations": [],
        "files": [],
        "remarks": [],
        "instructions": [
            f"Flickr30k in {root} lacks 31,783 of 31,783 images and dataset_flickr30k.json or results_20130124.token. "
            f"Its owners give the images to those who fill in their form, so clipret fetches none of it.",
            "1. Fill in the form at https://shannon.cs.illinois.edu/DenotationGraph/ to get flickr30k-images.tar.gz "
            "(31,783 JPEGs) and flickr30k.tar.gz (results_20130124.token).",
            "2. Fetch https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip, which has Karpathy's "
            "split file dataset_flickr30k.json.",
            f"3. Put them there: {root}/flickr30k-images/*.jpg and {root}/dataset_flickr30k.json (or "
            f"{root}/results_20130124.token). Archives that lie in {root} are unpacked for you.",
            f"4. See whether all is there: clipret download flickr30k --root {root}",
        ],
    }


@pytest.mark.parametrize("annotations", ["dataset_flickr30k.json", "results_20130124.token"])
def test_images_and_a_file_with_captions_are_whole(root, annotations):
    put_images(root)
    (root / annotations).write_text("{}")
    before = names(root)
    result, steps = get(root)
    assert (result["whole"], result["images"], result["annotations"]) == (True, 3, [annotations])
    assert result["instructions"] == steps == []
    assert names(root) == before


def test_a_split_file_in_a_folder_where_people_keep_it_counts(root):
    put_images(root)
    (root / "karpathy").mkdir()
    (root / "karpathy/dataset_flickr30k.json").write_text("{}")
    assert get(root)[0]["annotations"] == ["karpathy/dataset_flickr30k.json"]


@pytest.mark.parametrize(
    ("images", "annotations", "lacking"),
    [
        (2, True, "1 of 3 images"),
        (3, False, "dataset_flickr30k.json or results_20130124.token"),
        (1, False, "2 of 3 images and dataset_flickr30k.json or results_20130124.token"),
    ],
)
def test_what_is_lacking_is_counted(root, images, annotations, lacking):
    put_images(root, images)
    (root / "flickr30k-images/readme.txt").write_text("no image")
    (root / "flickr30k-images/._1.jpg").write_text("no image")
    if annotations:
        (root / "dataset_flickr30k.json").write_text("{}")
    result, _ = get(root)
    assert (result["whole"], result["images"]) == (False, images)
    assert result["instructions"][0].startswith(f"Flickr30k in {root} lacks {lacking}. Its owners give")
    assert result["instructions"][-1].endswith(f"clipret download flickr30k --root '{root}'")


@pytest.mark.parametrize(("name", "mode"), [("flickr30k-images.tar.gz", "w:gz"), ("flickr30k-images.tar", "w")])
def test_archives_of_the_user_are_unpacked_and_left_there(root, name, mode):
    put_image_archive(root, name, mode)
    put_split_archive(root)
    put_token_archive(root)
    archives = names(root)
    result, steps = get(root)
    unpacked = {f"flickr30k-images/{image}" for image in IMAGES} | {"dataset_flickr30k.json", "results_20130124.token"}
    assert names(root) == archives | unpacked
    assert {image: (root / "flickr30k-images" / image).read_bytes() for image in IMAGES} == IMAGES
    assert result["whole"]
    assert [(entry["name"], entry["state"], entry["unpacked"]) for entry in result["files"]] == [
        ("caption_datasets.zip", "already there", 1),
        ("flickr30k.tar.gz", "already there", 1),
        (name, "already there", 3),
    ]
    assert {step.phase for step in steps} == {f"unpack {archive}" for archive in archives}
    assert get(root)[0]["files"] == [], "a second time there is nothing to do"


def test_half_unpacked_images_are_completed(root):
    put_images(root, 1)
    put_image_archive(root)
    assert [entry["unpacked"] for entry in get(root)[0]["files"]] == [2]


def test_without_images_the_file_with_captions_is_enough(root):
    put_image_archive(root)
    put_split_archive(root)
    result, _ = get(root, annotations_only=True)
    assert (result["whole"], result["images"]) == (True, 0)
    assert [entry["name"] for entry in result["files"]] == ["caption_datasets.zip"]


def test_an_archive_that_would_write_elsewhere_is_refused(root):
    put_image_archive(root, **{"../evil.jpg": b"evil"})
    with pytest.raises(DatasetError) as caught:
        get(root)
    assert str(caught.value) == (
        f"{root}/flickr30k-images.tar.gz is refused: its entry '../evil.jpg' would leave the folder; nothing was "
        f"unpacked. Delete it and download it from elsewhere."
    )
    assert names(root.parent) - {f"{root.name}/{LOCK}"} == {f"{root.name}/flickr30k-images.tar.gz"}


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        get(tmp_path / "file")
    assert (
        str(caught.value) == f"{tmp_path}/file is a file; expected the folder that holds Flickr30k, or is to hold it."
    )
