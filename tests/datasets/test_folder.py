import pytest

from clipret.config import SPLITS
from tests.helpers.own_data import METADATA, METADATA_CSV, lines, load, make, write_shard

TEXTS = {
    "b.PNG": "",
    "b.txt": "ein Hund über dem Zaun 🐕",
    "a/z.jpeg": "",
    "a/z.TXT": "\ufeffa dog, running\r\n\r\n  spaces stay \n",
    "a/b/c.tif": "",
    "a/b/c.txt": "\n",
    "a.b.webp": "",
    "a.b.txt": "one\ntwo",
    "a-b/x.gif": "",
    "a-b/x.txt": "first\nsecond\nthird",
}


def named_splits(dataset):
    return [SPLITS[code] for code in dataset.image_splits]


def of_images(dataset):
    """Image file -> its captions."""
    texts = {file: [] for file in dataset.image_files}
    for text, image in zip(dataset.captions, dataset.caption_images, strict=True):
        texts[dataset.image_files[image]].append(text)
    return texts


def test_the_captions_of_an_image_are_the_lines_of_the_text_file_beside_it(tmp_path):
    dataset = load(make(tmp_path / "made", TEXTS))
    assert dataset.name == "made"
    assert dataset.root == tmp_path / "made"
    assert dataset.image_files == ["a/b/c.tif", "a/z.jpeg", "a-b/x.gif", "a.b.webp", "b.PNG"]
    assert dataset.image_ids == dataset.image_files
    assert of_images(dataset) == {
        "a/b/c.tif": [],
        "a/z.jpeg": ["a dog, running", "  spaces stay "],
        "a-b/x.gif": ["first", "second", "third"],
        "a.b.webp": ["one", "two"],
        "b.PNG": ["ein Hund über dem Zaun 🐕"],
    }
    assert dataset.split_rule == "hash 80/10/10 of the images' paths"
    assert dataset.remarks == ("1 image without a caption, in the gallery only",)
    assert dataset.missing_rows().tolist() == []


def test_what_is_left_out_is_told(tmp_path):
    others = {"README.txt": "read me", "a/README.md": "", "x.heic": "", ".hidden.jpg": "", ".git/a.jpg": ""}
    dataset = load(make(tmp_path, {**TEXTS, **others}))
    assert len(dataset.image_files) == 5
    assert dataset.remarks[:2] == (
        "1 text files belong to no image and were left out: README.txt",
        "2 files are neither images nor captions and were left out: a/README.md, x.heic",
    )


@pytest.mark.parametrize(
    "places", [("train", "val", "test"), ("Training", "dev", "testing"), ("train", "validation/deep", "test/deep")]
)
def test_folders_named_after_splits_give_the_split(tmp_path, places):
    files = {f"{place}/{kind}": "a caption" for place in places for kind in ("x.jpg", "x.txt")}
    folder = make(tmp_path, {**files, "README.txt": "read me"})
    dataset = load(folder)
    assert dict(zip(dataset.image_files, named_splits(dataset), strict=True)) == {
        f"{place}/x.jpg": split for place, split in zip(places, ("train", "val", "test"), strict=True)
    }
    assert dataset.split_rule == "given"
    assert load(folder, split="hash").split_rule == "hash 80/10/10 of the images' paths"


def test_adding_and_removing_files_moves_no_other_image(tmp_path):
    folder = make(tmp_path, {f"{number}.{kind}": "a caption" for number in range(60) for kind in ("jpg", "txt")})
    whole = load(folder)
    before = dict(zip(whole.image_ids, whole.image_splits.tolist(), strict=True))
    assert len(set(before.values())) == 3
    for number in range(0, 60, 3):
        (folder / f"{number}.jpg").unlink()
    fewer = load(make(folder, {"aa/0.jpg": "", "zz.jpg": ""}))
    after = dict(zip(fewer.image_ids, fewer.image_splits.tolist(), strict=True))
    assert {name: code for name, code in after.items() if name in before} == {
        name: code for name, code in before.items() if name in after
    }


@pytest.mark.parametrize(
    "metadata",
    [
        {"metadata.jsonl": lines(*METADATA)},
        {"metadata.csv": METADATA_CSV},
        {"metadata.parquet": {name: [entry[name] for entry in METADATA] for name in ("file_name", "text")}},
        {"metadata.jsonl": lines(*METADATA).replace('"text"', '"caption"')},
        {
            "metadata.jsonl": lines(
                {"file_name": "a/x.png", "captions": ['a "red" dog, running', "two\nlines"]},
                {"file_name": "b.jpg", "captions": "ein Hund 🐕"},
            )
        },
    ],
)
def test_a_metadata_file_names_the_images_and_their_captions(tmp_path, metadata):
    dataset = load(make(tmp_path / "made", {"a/x.png": "", "b.jpg": "", **metadata}))
    assert dataset.name == "made"
    assert of_images(dataset) == {"a/x.png": ['a "red" dog, running', "two\nlines"], "b.jpg": ["ein Hund 🐕"]}
    assert dataset.image_ids == ["a/x.png", "b.jpg"]
    assert dataset.split_rule == "hash 80/10/10 of the images' paths"
    assert dataset.remarks == ()
    assert dataset.missing_rows().tolist() == []


def test_what_the_metadata_does_not_name_is_told(tmp_path):
    files = {"a/x.png": "", "b.jpg": "", "c.jpg": "", "b.txt": "a caption", "metadata.jsonl": lines(*METADATA)}
    dataset = load(make(tmp_path, files))
    assert dataset.image_files == ["a/x.png", "b.jpg"]
    assert dataset.remarks == (
        "1 images that metadata.jsonl does not name were left out: c.jpg",
        "1 text files were not read, as metadata.jsonl has the captions: b.txt",
    )


def test_the_columns_of_metadata_can_have_other_names(tmp_path):
    entries = [{"path": "a.png", "text": "not this", "raw": "this", "fold": "test"}]
    folder = make(tmp_path, {"a.png": "", "metadata.jsonl": lines(*entries)})
    dataset = load(folder, columns="image=path,caption=raw,split=fold")
    assert dataset.captions == ["this"]
    assert named_splits(dataset) == ["test"]
    assert dataset.split_rule == "given"


def test_metadata_in_folders_named_after_splits_gives_the_split(tmp_path):
    files = {}
    for place in ("train", "validation", "test"):
        files |= {f"{place}/0.png": "", f"{place}/metadata.jsonl": lines({"file_name": "0.png", "text": place})}
    folder = make(tmp_path, files)
    dataset = load(folder)
    assert of_images(dataset) == {"test/0.png": ["test"], "train/0.png": ["train"], "validation/0.png": ["validation"]}
    assert dataset.image_ids == dataset.image_files
    assert named_splits(dataset) == ["test", "train", "val"]
    assert dataset.split_rule == "given"
    assert dataset.missing_rows().tolist() == []
    assert load(folder, split="hash").split_rule == "hash 80/10/10 of the images' paths"


def test_one_metadata_file_over_folders_named_after_splits_takes_their_split(tmp_path):
    entries = [{"file_name": f"{place}/x.png", "text": "a caption"} for place in ("train", "val", "test")]
    dataset = load(make(tmp_path, {"metadata.jsonl": lines(*entries)}))
    assert named_splits(dataset) == ["train", "val", "test"]
    assert dataset.split_rule == "given"
    assert dataset.missing_rows().tolist() == [0, 1, 2]


def test_a_root_says_where_the_images_of_metadata_are(tmp_path):
    make(tmp_path / "images", {"b.jpg": "", "a/x.png": ""})
    folder = make(tmp_path / "made", {"metadata.jsonl": lines(*METADATA)})
    dataset = load(folder, root=tmp_path / "images")
    assert dataset.root == tmp_path / "images"
    assert dataset.missing_rows().tolist() == []


def test_links_that_lead_out_of_the_folder_are_left_out_and_told(tmp_path):
    outside = make(tmp_path / "outside", {"x.jpg": "", "x.txt": "secret", "deep/y.jpg": ""})
    folder = make(tmp_path / "made", {"a.jpg": "", "a.txt": "a caption", "deep/b.jpg": ""})
    targets = {
        "c.jpg": folder / "a.jpg",
        "file.jpg": outside / "x.jpg",
        "deep/b.txt": outside / "x.txt",
        "folder": outside / "deep",
        "inner": folder / "deep",
        "nothing.jpg": folder / "none.jpg",
        "self.jpg": folder / "self.jpg",
    }
    for name, target in targets.items():
        (folder / name).symlink_to(target)
    dataset = load(folder)
    assert of_images(dataset) == {"a.jpg": ["a caption"], "c.jpg": [], "deep/b.jpg": []}
    assert dataset.remarks[0] == (
        "6 links point outside the folder, to a folder or to nothing, and were skipped: "
        "deep/b.txt, file.jpg, folder, inner, nothing.jpg, ..."
    )


def test_links_that_metadata_names_are_images_of_the_data_set(tmp_path):
    # The cache of a hub's downloads is such: every file is a link to a blob beside the folder.
    blobs = make(tmp_path / "blobs", {"1": "", "2": "", "3": lines({"file_name": "a.jpg", "text": "a caption"})})
    folder = tmp_path / "made"
    folder.mkdir()
    for name, blob in (("a.jpg", "1"), ("b.jpg", "2"), ("metadata.jsonl", "3")):
        (folder / name).symlink_to(blobs / blob)
    dataset = load(folder)
    assert of_images(dataset) == {"a.jpg": ["a caption"]}
    assert dataset.missing_rows().tolist() == []
    assert dataset.remarks == ("1 links point outside the folder, to a folder or to nothing, and were skipped: b.jpg",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.txt", 'image,caption\n1.jpg,one\n1.jpg,"a, b"\n2.jpg,two\n'),
        ("results.csv", "image_name| comment_number| comment\n1.jpg| 0| one\n1.jpg| 1| a, b\n2.jpg| 0| two\n"),
        ("Flickr8k_text/Flickr8k.token.txt", "1.jpg#0\tone\n1.jpg#1\ta, b\n2.jpg#0\ttwo\n"),
    ],
)
def test_flickrs_captions_are_read_with_images_in_a_folder_of_their_own(tmp_path, name, content):
    images = {f"Images/{number}.jpg": "" for number in (1, 2, 3)}
    folder = make(tmp_path / "made", {**images, name: content, "Flickr8k.lemma.token.txt": "1.jpg#0\tone"})
    dataset = load(folder)
    assert of_images(dataset) == {"Images/1.jpg": ["one", "a, b"], "Images/2.jpg": ["two"]}
    assert dataset.missing_rows().tolist() == []
    assert dataset.remarks[:2] == (
        f"the paths in {name} start from Images, where these images are",
        f"1 images that {name} does not name were left out: Images/3.jpg",
    )


def of_splits(dataset):
    return dict(zip(dataset.image_files, named_splits(dataset), strict=True))


@pytest.mark.parametrize("places", [("", ""), ("images/", ""), ("", "annotations/"), ("a/b/", "a/")])
def test_a_table_for_each_split_gives_the_split(tmp_path, places):
    at, tables_at = places
    rows = {"train": ["0.jpg", "1.jpg"], "validation": ["2.jpg"], "test": ["deep/3.jpg"]}
    files = {f"{at}{name}": "" for names in rows.values() for name in names}
    for split, names in rows.items():
        files[f"{tables_at}{split}.csv"] = "image,caption\n" + "".join(f"{name},a caption\n" for name in names)
    folder = make(tmp_path / "made", files)
    dataset = load(folder)
    codes = {f"{at}0.jpg": "train", f"{at}1.jpg": "train", f"{at}2.jpg": "val", f"{at}deep/3.jpg": "test"}
    assert (of_splits(dataset), dataset.split_rule) == (codes, "given")
    assert dataset.missing_rows().tolist() == []
    assert load(folder, split="hash").split_rule == "hash 80/10/10 of the images' paths"
    elsewhere = make(tmp_path / "images", {name: "" for names in rows.values() for name in names})
    assert load(folder, root=elsewhere).missing_rows().tolist() == []


def test_tables_of_a_split_in_parts_are_one(tmp_path):
    files = {f"{number}.jpg": "" for number in range(3)}
    for number, split in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        files[f"data/{split}.parquet"] = {"file_name": [f"{number}.jpg"], "text": ["a caption"]}
    dataset = load(make(tmp_path, files))
    assert of_splits(dataset) == {"0.jpg": "train", "1.jpg": "train", "2.jpg": "test"}


@pytest.mark.parametrize("wrapper", ["data/", "a/b/"])
def test_folders_that_all_is_in_are_looked_through(tmp_path, wrapper):
    files = {}
    for place in ("train", "test"):
        files[f"{wrapper}{place}/0.png"] = ""
        files[f"{wrapper}{place}/metadata.jsonl"] = lines({"file_name": "0.png", "text": place})
    expected = {f"{wrapper}test/0.png": "test", f"{wrapper}train/0.png": "train"}
    assert of_splits(load(make(tmp_path / "metadata", {**files, "README.md": "x"}))) == expected
    texts = {name.replace("metadata.jsonl", "0.txt"): "a caption" for name in files}
    assert of_splits(load(make(tmp_path / "texts", {**texts, "README.md": "x"}))) == expected
    top = {name: "" for name in files if name.endswith(".png")}
    top["metadata.jsonl"] = lines(*({"file_name": name, "text": "x"} for name in top))
    assert of_splits(load(make(tmp_path / "top", top))) == expected


def test_a_text_file_beside_an_image_goes_before_tables(tmp_path):
    files = {"captions.jpg": "", "captions.txt": "one", "train.csv": "image,caption\n"}
    dataset = load(make(tmp_path, files))
    assert of_images(dataset) == {"captions.jpg": ["one"]}
    assert dataset.remarks == ("1 files are neither images nor captions and were left out: train.csv",)


def test_tables_that_are_not_read_are_told(tmp_path):
    files = {"a.jpg": "", "train.csv": "image,caption\na.jpg,one\n", "captions.txt": "x", "more.jsonl": ""}
    assert load(make(tmp_path, files)).remarks == (
        "1 text files were not read, as train.csv has the captions: captions.txt",
        "1 tables were not read, as train.csv has the captions: more.jsonl",
    )


@pytest.mark.parametrize(
    ("places", "splits"),
    [
        (("0.tar", "1.tar"), None),
        (("data/0.tar", "data/1.tar"), None),
        (("train-0.tar", "test-0.tar"), ["test", "train"]),
        (("data/train/0.tar", "data/val/0.tar"), ["train", "val"]),
        (("train/0.tar", "train/1.tar"), None),
        (("train/0.tar", "more/1.tar"), None),
    ],
)
def test_a_folder_of_shards_is_read_as_these(tmp_path, places, splits):
    folder = make(tmp_path / "made {1,2}[3]", {"README.md": "x", "sizes.json": "{}"})
    for key, place in enumerate(places):
        write_shard(folder / place, {f"{key}.jpg": b"not opened", f"{key}.txt": "a caption"})
    dataset = load(folder)
    assert dataset.name == "made {1,2}[3]"
    assert len(dataset.image_files) == len(dataset.captions) == 2
    assert dataset.missing_rows().tolist() == []
    assert dataset.remarks == (f"read as 2 shards: {', '.join(sorted(places, key=lambda name: name.split('/')))}",)
    assert dataset.split_rule == ("given" if splits else "hash 80/10/10 of the images' ids")
    if splits:
        assert named_splits(dataset) == splits
    assert load(folder, split="hash").split_rule == "hash 80/10/10 of the images' ids"
