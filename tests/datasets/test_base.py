import dataclasses

import numpy as np
import pytest

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets import load_dataset
from clipret.datasets.base import RetrievalDataset, finish, split_by_hash, split_code
from clipret.errors import DatasetError, UsageError

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def test_a_split_by_hash_is_the_same_on_every_machine():
    named = [SPLITS[code] for code in split_by_hash(["1f600", "1f601", "2764-fe0f", "cat"], fractions=FRACTIONS)]
    assert named == ["val", "train", "val", "val"]


def test_adding_and_removing_keys_moves_no_other_key():
    keys = [str(number) for number in range(1000)]
    whole = dict(zip(keys, split_by_hash(keys, fractions=FRACTIONS), strict=True))
    fewer = keys[::-3]
    assert all(whole[key] == code for key, code in zip(fewer, split_by_hash(fewer, fractions=FRACTIONS), strict=True))


def test_the_shares_are_the_fractions_asked_for():
    shares = np.bincount(split_by_hash(map(str, range(20_000)), fractions=FRACTIONS), minlength=3) / 20_000
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.01)


def test_another_salt_gives_another_split():
    keys = [str(number) for number in range(100)]
    first, second = (split_by_hash(keys, fractions=FRACTIONS, salt=salt) for salt in ("one", "two"))
    assert (first != second).any()


def test_fractions_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match=r"add up to 0\.7"):
        split_by_hash(["a"], fractions={"train": 0.7, "val": 0.1})


@pytest.mark.parametrize(("ids", "captions", "lacks"), [([], [], "images"), (["1"], [], "captions")])
def test_an_empty_data_set_is_refused(tmp_path, ids, captions, lacks):
    with pytest.raises(DatasetError, match=f"has no {lacks}; extraction needs at least one"):
        dataset_of(tmp_path, files=ids, captions=captions, owners=())


def test_an_unknown_data_set_lists_the_known_ones():
    with pytest.raises(DatasetError) as caught:
        load_dataset(DatasetConfig(dataset="mnist"))
    assert str(caught.value) == (
        "unknown data set 'mnist'; expected one of emoji, coco, flickr30k, xm3600, xtd10, or the path of your own "
        "data: a folder of save_to_disk, Karpathy's tables, Parquet files with the images inside, a folder with "
        "images, a table (.csv, .tsv, .jsonl, .ndjson, .parquet), a .json file, a .zip of images or .tar shards."
    )


@pytest.mark.parametrize(
    ("dataset", "split", "rules"),
    [("coco", "hash", "2017, karpathy"), ("flickr30k", "2017", "karpathy, hash"), ("a.tar", "karpathy", "given, hash")],
)
def test_a_rule_that_a_data_set_cannot_be_split_by_is_refused(dataset, split, rules):
    with pytest.raises(UsageError) as caught:
        load_dataset(DatasetConfig(dataset=dataset, split=split))
    assert str(caught.value) == f"--split is '{split}'; '{dataset}' can be split by: {rules}."


def dataset_of(root, files=("a.jpg", "b.jpg", "c.jpg"), captions=("one", "two", "three", "four"), owners=(0, 0, 1, 0)):
    """A data set of these files, whose ids are their names."""
    return RetrievalDataset(
        name="made",
        root=root,
        image_ids=list(files),
        image_files=list(files),
        image_splits=np.zeros(len(files), np.uint8),
        captions=list(captions),
        caption_images=np.array(owners),
        split_rule="given",
    )


def finished(dataset, **settings):
    return finish(dataset, DatasetConfig(dataset="made.csv", **settings))


def test_captions_are_numbered_within_their_image_where_the_data_set_numbers_none(tmp_path):
    assert dataset_of(tmp_path).caption_ids == ["a.jpg#0", "a.jpg#1", "b.jpg#0", "a.jpg#2"]


def test_the_first_captions_of_an_image_are_kept_in_their_order(tmp_path):
    kept = finished(dataset_of(tmp_path), captions_per_image=2)
    assert (kept.captions, kept.caption_ids) == (["one", "two", "three"], ["a.jpg#0", "a.jpg#1", "b.jpg#0"])
    assert kept.caption_images.tolist() == [0, 0, 1]


def test_empty_captions_are_left_out_and_told_before_the_first_are_counted(tmp_path):
    kept = finished(dataset_of(tmp_path, captions=("", "two", " \t", "four")), captions_per_image=2)
    assert (kept.captions, kept.caption_ids) == (["two", "four"], ["a.jpg#1", "a.jpg#2"])
    assert kept.remarks == (
        "left out 2 empty captions, of a.jpg, b.jpg",
        "2 images without a caption, in the gallery only",
    )


def test_a_caption_that_cleaning_leaves_nothing_of_is_empty(tmp_path):
    dataset = dataset_of(tmp_path, captions=("?!", "two", "three", "four"))
    assert finished(dataset).captions[0] == "?!"
    assert "?!" not in finished(dataset, caption_clean="strip-punctuation").captions


def test_images_that_share_an_id_are_refused(tmp_path):
    files = ["a.jpg", "b.jpg", "a.jpg", "a.jpg"]
    with pytest.raises(DatasetError) as caught:
        finished(dataset_of(tmp_path, files=files))
    assert str(caught.value) == (
        "data set 'made': 1 image ids are used by more than one image: a.jpg; every image needs its own id."
    )


@pytest.mark.parametrize("file", ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "a\\..\\x.jpg", "~/x.jpg", "C:/x.jpg"])
def test_a_file_that_leaves_the_root_is_refused(tmp_path, file):
    with pytest.raises(DatasetError) as caught:
        finished(dataset_of(tmp_path, files=["a.jpg", file]))
    assert str(caught.value) == (
        f"data set 'made': 1 image files are outside {tmp_path}: {file}; expected paths relative to it, with forward "
        f"slashes and without `..`{', or a --root that they are in: /etc' * (file == '/etc/passwd')}."
    )


def test_missing_files_are_found_in_folders_of_any_depth(tmp_path):
    files = ["a.jpg", "deep/er/b.jpg", "gone/c.jpg", "deep/d.jpg", "deep/er", "e..jpg"]
    for file in (files[0], files[1], files[5]):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert dataset_of(tmp_path, files=files).missing_rows().tolist() == [2, 3, 4]


def test_whatever_a_reader_decides_changes_the_sha256(tmp_path):
    dataset = dataset_of(tmp_path)
    changes = {
        "image_ids": ["x", "b.jpg", "c.jpg"],
        "image_files": ["x", "b.jpg", "c.jpg"],
        "image_splits": np.array([1, 0, 0], np.uint8),
        "captions": ["One", "two", "three", "four"],
        "caption_ids": ["x", "y", "z", "w"],
        "caption_images": np.array([0, 0, 1, 1]),
    }
    hashes = {dataset.annotation_sha256}
    for name, value in changes.items():
        hashes.add(dataclasses.replace(dataset, **{name: value}).annotation_sha256)
    assert len(hashes) == 1 + len(changes)
    elsewhere = dataclasses.replace(dataset, root=tmp_path / "moved", remarks=("x",))
    assert elsewhere.annotation_sha256 == dataset.annotation_sha256


@pytest.mark.parametrize(
    ("stem", "name"), [("coco", "own-coco"), ("flickr30k-hash", "own-flickr30k-hash"), ("coconut", "coconut")]
)
def test_a_table_is_not_taken_for_the_data_set_that_its_file_is_called_after(tmp_path, stem, name):
    path = tmp_path / f"{stem}.csv"
    path.write_text("image,caption\na.jpg,a dog\n")
    assert load_dataset(DatasetConfig(dataset=str(path))).name == name


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ("train", "training", "Train", " TRAINING ")),
        ("val", ("val", "valid", "validation", "dev", "Dev")),
        ("test", ("test", "testing")),
        ("restval", ("restval",)),
    ],
)
def test_a_split_goes_by_its_usual_names(split, names):
    assert [SPLITS[split_code(name)] for name in names] == [split] * len(names)


@pytest.mark.parametrize("name", ["", "tests", "train2017", "all", "0"])
def test_an_unknown_split_has_no_code(name):
    assert split_code(name) is None
