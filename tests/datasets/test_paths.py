import unicodedata
from pathlib import Path

import pytest

from clipret.datasets.paths import ImagePaths, look
from clipret.errors import DatasetError
from tests.helpers.own_data import lines, load, make, write

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
BY_LOOK = "found by names with other letter case or other encoding of accents"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("./a//b.jpg/", "a/b.jpg"),
        ("a\\b.jpg", "a/b.jpg"),
        (".\\a\\b.jpg", "a/b.jpg"),
        ("/data/a/b.jpg", "a/b.jpg"),
        ("/data//./a/b.jpg", "a/b.jpg"),
        # These stay, to be refused.
        ("/data", "/data"),
        ("/data/../etc/a.jpg", "../etc/a.jpg"),
        ("/database/a.jpg", "/database/a.jpg"),
        ("../a.jpg", "../a.jpg"),
        ("C:\\a.jpg", "C:\\a.jpg"),
        ("\\\\server\\share\\a.jpg", "\\\\server\\share\\a.jpg"),
        ("\\a.jpg", "\\a.jpg"),
    ],
)
def test_paths_are_read_as_from_the_root(text, expected):
    assert ImagePaths(Path("/data")).read(text) == expected


@pytest.mark.parametrize("root", ["/", "//"])
def test_every_absolute_path_is_inside_the_top_folder(root):
    assert ImagePaths(Path(root)).read("/a/b.jpg") == "a/b.jpg"


def test_a_relative_root_and_one_by_a_link_hold_their_absolute_paths(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    for root in ("link", "x/../link", tmp_path / "link"):
        paths = ImagePaths(Path(root))
        assert paths.read(f"{tmp_path}/link/a.jpg") == paths.read(f"{tmp_path}/real/a.jpg") == "a.jpg"


def test_absolute_paths_below_the_root_become_relative_with_a_remark(tmp_path):
    folder = make(tmp_path / "p", {"a.jpg": b"", "b.jpg": b""})
    table = write(tmp_path / "made.csv", f"image,caption\n{folder}/a.jpg,one\np/b.jpg,two\np/a.jpg,three\n")
    dataset = load(table)
    assert dataset.image_files == dataset.image_ids == ["p/a.jpg", "p/b.jpg"]
    assert dataset.captions == ["one", "three", "two"]
    assert dataset.remarks == (f"1 absolute path read as starting from the root, {tmp_path}: {folder}/a.jpg",)
    assert load(table, root=Path("/")).image_files == [f"{folder}/a.jpg"[1:], "p/b.jpg", "p/a.jpg"]


@pytest.mark.parametrize(
    "name", ["made.csv", "made.jsonl", "made.json", "coco.json", "karpathy.json", "metadata.jsonl"]
)
def test_backslashes_are_slashes_in_every_form_of_data_set(tmp_path, name):
    make(tmp_path, {"p/a.jpg": b""})
    image, text = "p\\a.jpg", "a dot"
    content = {
        "made.csv": f"image,caption\n{image},{text}\n",
        "made.jsonl": lines({"image": image, "caption": text}),
        "made.json": f"[{lines({'image': image, 'caption': text})}]",
        "coco.json": lines(
            {"images": [{"id": 1, "file_name": image}], "annotations": [{"id": 1, "image_id": 1, "caption": text}]}
        ),
        "karpathy.json": lines(
            {"images": [{"filename": image, "split": "test", "sentences": [{"raw": text, "sentid": 1}]}]}
        ),
        "metadata.jsonl": lines({"file_name": image, "text": text}),
    }
    write(tmp_path / name, content[name])
    dataset = load(tmp_path if name == "metadata.jsonl" else tmp_path / name)
    assert (dataset.image_files, dataset.captions) == (["p/a.jpg"], [text])
    assert dataset.image_ids == ["1" if name == "coco.json" else "p/a.jpg"]
    assert dataset.remarks == ("1 path with backslashes, read as with slashes: p\\a.jpg",)


@pytest.mark.parametrize(
    ("disk", "table"),
    [
        ("shot.jpg", "shot.JPG"),
        ("Shots/one.jpg", "shots/One.jpg"),
        (f"{DECOMPOSED}/{DECOMPOSED}.jpg", f"{COMPOSED}/{COMPOSED}.jpg"),
        (f"{COMPOSED}.jpg", f"{DECOMPOSED.upper()}.jpg"),
        ("STRASSE.jpg", "straße.jpg"),
    ],
)
def test_the_only_file_that_looks_equal_is_used_with_a_remark_and_the_id_stays(tmp_path, disk, table):
    make(tmp_path, {disk: b"", "other.jpg": b""})
    dataset = load(write(tmp_path / "made.csv", f"image,caption\n{table},one\nother.jpg,two\n"))
    assert dataset.image_files == [disk, "other.jpg"]
    assert dataset.image_ids == [table, "other.jpg"]
    assert len(dataset.missing_rows()) == 0
    assert dataset.remarks == (f"1 image file {BY_LOOK}: {disk} for {table}",)


def test_a_file_of_the_very_name_goes_before_others_that_look_equal(tmp_path):
    make(tmp_path, {"a.jpg": b"", "A.jpg": b""})
    dataset = load(write(tmp_path / "made.csv", "image,caption\nA.jpg,one\na.jpg,two\n"))
    assert (dataset.image_files, dataset.remarks) == (["A.jpg", "a.jpg"], ())


@pytest.mark.parametrize(
    ("files", "rows", "message"),
    [
        (
            ["p/a.jpg", "p/A.jpg"],
            "p/a.JPG,one\n",
            "{root}/p/a.JPG is not there, and A.jpg and a.jpg in {root}/p both look like it; write the one that is "
            "meant.",
        ),
        (
            ["a.jpg"],
            "a.jpg,one\nA.jpg,two\n",
            "data set 'made': a.jpg and A.jpg look equal, and of these only a.jpg is in {root}; expected a separate "
            "file for every image.",
        ),
    ],
)
def test_files_that_could_be_meant_twice_are_refused(tmp_path, files, rows, message):
    make(tmp_path, dict.fromkeys(files, b""))
    with pytest.raises(DatasetError) as caught:
        load(write(tmp_path / "made.csv", f"image,caption\n{rows}"))
    assert str(caught.value) == message.format(root=tmp_path)


def test_files_that_nothing_looks_like_stay_missing(tmp_path):
    make(tmp_path, {"a.jpg": b"", "b": b""})
    dataset = load(write(tmp_path / "made.csv", "image,caption\na.jpg,one\nc.jpg,two\nd/e.jpg,three\nb/f.jpg,four\n"))
    assert dataset.missing_rows().tolist() == [1, 2, 3]
    assert dataset.remarks == ()


def test_a_text_file_belongs_to_the_image_whose_name_looks_equal(tmp_path):
    make(tmp_path, {f"{DECOMPOSED}.jpg": b"", f"{COMPOSED}.txt": "a cup\n", "Shot.JPG": b"", "shot.txt": "a shot\n"})
    dataset = load(tmp_path)
    assert dataset.image_files == ["Shot.JPG", f"{DECOMPOSED}.jpg"]
    assert dataset.captions == ["a shot", "a cup"]
    assert dataset.remarks == (f"2 text files {BY_LOOK}: {COMPOSED}.txt for {DECOMPOSED}.jpg, shot.txt for Shot.JPG",)


def test_text_files_that_look_equal_are_no_ones(tmp_path):
    make(tmp_path, {"a.jpg": b"", "a.txt": "one\n", "Shot.jpg": b"", "shot.txt": "two\n", "SHOT.txt": "three\n"})
    dataset = load(tmp_path)
    assert dataset.captions == ["one"]
    assert dataset.remarks == (
        "2 text files belong to no image and were left out: SHOT.txt, shot.txt",
        "1 image without a caption, in the gallery only",
    )


def test_metadata_and_flickrs_captions_find_images_by_their_look(tmp_path):
    make(tmp_path, {"a/metadata.csv": "file_name,text\nX.png,one\n", "a/x.png": b"", "b/Images/y.JPG": b""})
    write(tmp_path / "b" / "captions.txt", "image,caption\ny.jpg,two\n")
    assert load(tmp_path / "a").remarks == (f"1 image file {BY_LOOK}: x.png for X.png",)
    dataset = load(tmp_path / "b")
    assert dataset.image_files == ["Images/y.JPG"]
    assert dataset.remarks == (
        "the paths in captions.txt start from Images, where these images are",
        f"1 image file {BY_LOOK}: Images/y.JPG for Images/y.jpg",
    )


@pytest.mark.parametrize("name", ["a.jpg", "", "ｅ", "ß", "İ", f"{DECOMPOSED}\u0301"])
def test_what_looks_equal_looks_equal_in_every_case_and_encoding(name):
    for form in ("NFC", "NFD"):
        assert look(unicodedata.normalize(form, name)) == look(name)
    assert look(look(name)) == look(name)


def test_what_looks_equal_and_is_no_file_is_not_used(tmp_path):
    make(tmp_path, {"A.jpg/x": b"", "other.jpg": b""})
    (tmp_path / "B.jpg").symlink_to("nowhere.jpg")
    dataset = load(write(tmp_path / "made.csv", "image,caption\na.jpg,one\nb.jpg,two\nother.jpg,three\n"))
    assert (dataset.missing_rows().tolist(), dataset.remarks) == ([0, 1], ())


def test_a_folder_with_the_very_names_goes_before_one_with_names_that_look_equal(tmp_path):
    make(tmp_path, {"raw/IMG_1.JPG": b"", "small/img_1.jpg": b"", "train.csv": "image,caption\nimg_1.jpg,one\n"})
    assert load(tmp_path).image_files == ["small/img_1.jpg"]


def test_absolute_paths_in_tables_of_a_folder_start_from_no_place(tmp_path):
    table = f"image,caption\n{tmp_path}/images/a.jpg,one\n"
    make(tmp_path, {"images/a.jpg": b"", "b/a.jpg": b"", "annotations/train.csv": table})
    dataset = load(tmp_path)
    assert dataset.image_files == dataset.image_ids == ["images/a.jpg"]
    (tmp_path / "images" / "a.jpg").unlink()
    assert load(tmp_path).missing_rows().tolist() == [0]


def test_flickrs_captions_may_have_absolute_paths_and_backslashes(tmp_path):
    make(tmp_path, {"Images/a.jpg": b"", "Images/b.jpg": b""})
    write(tmp_path / "captions.txt", f"image,caption\nImages\\a.jpg,one\n{tmp_path}/Images/b.jpg,two\n")
    dataset = load(tmp_path)
    assert dataset.image_files == ["Images/a.jpg", "Images/b.jpg"]
    assert dataset.remarks == (
        "1 path with backslashes, read as with slashes: Images\\a.jpg",
        f"1 absolute path read as starting from the root, {tmp_path}: {tmp_path}/Images/b.jpg",
    )


def test_a_root_behind_a_link_and_two_dots_is_the_folder_that_it_leads_to(tmp_path):
    make(tmp_path, {"p/q/x": b"", "p/x/a.jpg": b"", "x/a.jpg": b""})
    (tmp_path / "link").symlink_to("p/q")
    paths = ImagePaths(tmp_path / "link" / ".." / "x")
    assert paths.read(f"{tmp_path}/p/x/a.jpg") == "a.jpg"
    assert paths.read(f"{tmp_path}/x/a.jpg") == f"{tmp_path}/x/a.jpg"


def test_ids_in_some_tables_only_are_set_aside_with_a_remark(tmp_path):
    make(tmp_path, {"a.jpg": b"", "b.jpg": b"", "train.csv": "image,caption,id\na.jpg,one,1\n"})
    write(tmp_path / "test.csv", "image,caption\nb.jpg,two\n")
    dataset = load(tmp_path)
    assert dataset.image_ids == ["a.jpg", "b.jpg"]
    assert dataset.remarks == ("test.csv has no ids, so that the files are the ids",)
