import json
import shutil

import numpy as np
import pytest

from clipret.annotations.karpathy_ids import karpathy_test_ids
from clipret.config import SPLITS, DatasetConfig
from clipret.datasets import load_dataset
from clipret.errors import DatasetError


def load(root, **settings):
    return load_dataset(DatasetConfig(dataset="coco", root=root, **settings))


def images_of(dataset, split: str) -> list[str]:
    return [dataset.image_ids[row] for row in np.flatnonzero(dataset.image_splits == SPLITS.index(split))]


def test_images_captions_and_splits_are_those_of_the_annotations(coco_root):
    dataset = load(coco_root)
    assert (dataset.name, len(dataset.image_ids)) == ("coco", 80)
    for year, rows in (("train2017", range(60)), ("val2017", range(60, 80))):
        content = json.loads((coco_root / "annotations" / f"captions_{year}.json").read_text())
        files = {str(image["id"]): f"{year}/{image['file_name']}" for image in content["images"]}
        assert {dataset.image_ids[row]: dataset.image_files[row] for row in rows} == files
        for row in rows:
            own = [entry for entry in content["annotations"] if str(entry["image_id"]) == dataset.image_ids[row]]
            own.sort(key=lambda entry: entry["id"])
            texts = np.flatnonzero(dataset.caption_images == row)
            assert [dataset.captions[text] for text in texts] == [entry["caption"] for entry in own]
            assert [dataset.caption_ids[text] for text in texts] == [str(entry["id"]) for entry in own]
    assert (dataset.image_splits[60:] == SPLITS.index("test")).all()
    assert set(dataset.image_splits[:60]) <= {SPLITS.index("train"), SPLITS.index("val")}
    assert [int(image) for image in dataset.image_ids[:60]] == sorted(int(image) for image in dataset.image_ids[:60])


def test_the_share_of_val_is_the_one_asked_for_and_grows_without_moving_an_image_back(coco_root):
    held_out = [set(images_of(load(coco_root, val_fraction=share), "val")) for share in (0, 0.1, 0.3, 0.6)]
    assert held_out[0] == set()
    assert held_out[1] <= held_out[2] <= held_out[3]
    assert 20 < len(held_out[3]) < 50
    assert "5 % val" in load(coco_root).split_rule


@pytest.fixture
def copy(coco_root, tmp_path):
    return shutil.copytree(coco_root, tmp_path / "coco")


def test_everything_that_is_missing_is_named(copy):
    (copy / "annotations" / "captions_val2017.json").unlink()
    shutil.rmtree(copy / "train2017")
    with pytest.raises(DatasetError) as caught:
        load(copy)
    assert str(caught.value) == (
        f"COCO 2017 at {copy} is incomplete: it lacks annotations/captions_val2017.json, train2017. Download them "
        f"with: clipret download coco --root {copy}; or say where they are with --root (make: ROOT=)."
    )


def karpathy_entry(number: int, *, split: str, captions=("one", "two"), year: str = "val2014") -> dict:
    name = f"COCO_{year}_{number:012d}.jpg"
    sentences = [
        {"tokens": [], "raw": text, "imgid": 0, "sentid": 10 * number + place} for place, text in enumerate(captions)
    ]
    return {"filepath": year, "filename": name, "split": split, "cocoid": number, "imgid": 0, "sentences": sentences}


@pytest.fixture
def karpathy_root(tmp_path):
    """Seven images that lie under the names and in the folders of both years."""
    root = tmp_path / "coco"
    entries = [karpathy_entry(90, split="test"), karpathy_entry(20, split="test", captions=("a", "b", "c"))]
    entries += [karpathy_entry(30, split="train"), karpathy_entry(40, split="restval"), karpathy_entry(50, split="val")]
    entries += [karpathy_entry(60, split="restval", year="train2014"), karpathy_entry(70, split="val")]
    root.mkdir()
    (root / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))
    for file in (
        "val2014/COCO_val2014_000000000090.jpg",
        "train2014/COCO_train2014_000000000060.jpg",
        "train2017/000000000020.jpg",
        "val2017/000000000030.jpg",
        "val2017/000000000040.jpg",
        "val2014/COCO_val2014_000000000040.jpg",
        "train2017/COCO_val2014_000000000050.jpg",
        "val2017/notes.txt",
    ):
        (root / file).parent.mkdir(exist_ok=True)
        (root / file).touch()
    return root


def test_karpathys_file_gives_order_split_and_captions_and_the_id_the_file(karpathy_root):
    dataset = load(karpathy_root, split="karpathy")
    assert (dataset.name, dataset.split_rule) == ("coco-karpathy", "Karpathy's split, restval joined to train")
    assert dataset.image_ids == ["90", "20", "30", "40", "50", "60", "70"]
    assert dataset.image_files == [
        "val2014/COCO_val2014_000000000090.jpg",
        "train2017/000000000020.jpg",
        "val2017/000000000030.jpg",
        "val2017/000000000040.jpg",
        "train2017/COCO_val2014_000000000050.jpg",
        "train2014/COCO_train2014_000000000060.jpg",
        "val2014/COCO_val2014_000000000070.jpg",
    ]
    assert dataset.missing_rows().tolist() == [6]
    assert images_of(dataset, "train") == ["30", "40", "60"]
    assert images_of(dataset, "test") == ["90", "20"]
    assert dataset.captions[:5] == ["one", "two", "a", "b", "c"]
    assert dataset.caption_ids[:5] == ["900", "901", "200", "201", "202"]


def test_without_restval_it_keeps_its_own_split(karpathy_root):
    dataset = load(karpathy_root, split="karpathy", restval=False)
    assert images_of(dataset, "train") == ["30"]
    assert images_of(dataset, "restval") == ["40", "60"]
    assert dataset.split_rule == "Karpathy's split"


def write_official(root, *, year: str, leave_out: int = 0):
    """captions_{train,val}YEAR.json that hold all of Karpathy's real test images with their real caption ids."""
    from eccv_caption.metrics import Metrics

    captions = Metrics().coco_gts["i2t"]
    test = karpathy_test_ids(otherwise="")[leave_out:]
    others = [number for number in range(1, 400) if number not in set(test)]
    (root / "annotations").mkdir(parents=True)
    for part, numbers in (("train", others + test[::2]), ("val", test[1::2])):
        content = {
            "images": [{"id": number, "file_name": f"{number:012d}.jpg"} for number in numbers],
            "annotations": [
                {"id": caption, "image_id": number, "caption": f"caption {caption}"}
                for number in numbers
                for caption in captions.get(number, [10_000_000 + number])
            ],
        }
        (root / "annotations" / f"captions_{part}{year}.json").write_text(json.dumps(content))
    return others


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:failed to import")
@pytest.mark.parametrize("year", ["2014", "2017"])
def test_without_karpathys_file_the_real_test_ids_come_in_the_order_of_the_package(tmp_path, year):
    """'Done when' of the protocols: 5,000 images and 25,000 caption ids, in the order of coco_test_ids.npy."""
    from eccv_caption.metrics import Metrics

    others = write_official(tmp_path, year=year)
    dataset = load(tmp_path, split="karpathy")
    test = images_of(dataset, "test")
    assert (len(test), test) == (5000, [str(number) for number in karpathy_test_ids(otherwise="")])
    assert dataset.image_ids[:5000] == test
    captions = np.array(dataset.caption_ids, dtype=np.int64)[dataset.caption_images < 5000]
    np.testing.assert_array_equal(captions, Metrics().coco_ids)
    assert sorted(map(int, [*images_of(dataset, "train"), *images_of(dataset, "val")])) == others
    assert dataset.split_rule.endswith("5 % val by hash of the image id, not Karpathy's")


@pytest.mark.filterwarnings("ignore:failed to import")
def test_annotations_that_lack_test_images_are_refused(tmp_path):
    write_official(tmp_path, year="2017", leave_out=2)
    with pytest.raises(DatasetError) as caught:
        load(tmp_path, split="karpathy")
    parts = f"{tmp_path}/annotations/captions_train2017.json, {tmp_path}/annotations/captions_val2017.json"
    assert str(caught.value) == (
        f"2 of Karpathy's 5,000 test images are not in {parts}: 391895, 60623; expected COCO's caption files of train "
        "and val, whole."
    )


def test_without_any_annotations_the_files_that_would_do_are_named(tmp_path):
    with pytest.raises(DatasetError) as caught:
        load(tmp_path, split="karpathy")
    assert str(caught.value) == (
        f"Karpathy's split needs, in {tmp_path}, dataset_coco.json, or annotations/captions_{{train,val}}2014.json or "
        "captions_{train,val}2017.json. Download them with: "
        f"clipret download coco --root {tmp_path}; or say where they are with --root (make: ROOT=)."
    )


def test_without_the_package_its_installation_is_told(copy, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DatasetError) as caught:
        load(copy, split="karpathy")
    assert str(caught.value) == (
        "Karpathy's test ids are in the package `eccv-caption`, which is not installed; run: pip install "
        f"'clipret[karpathy]', or put Karpathy's dataset_coco.json into {copy}."
    )
