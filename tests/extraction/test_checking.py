import json
import shutil

import numpy as np
import pytest
from PIL import Image

from clipret.config import CheckConfig
from clipret.errors import DatasetError
from clipret.extraction.checking import check_dataset
from tests.helpers.own_data import write_shard


def check(root, **settings):
    return check_dataset(CheckConfig(dataset="coco", root=root, **settings))


def test_a_summary_counts_what_the_annotations_have(coco_root):
    summary = check(coco_root)
    contents = [
        json.loads((coco_root / "annotations" / f"captions_{part}2017.json").read_text()) for part in ("train", "val")
    ]
    captions = [entry["caption"] for content in contents for entry in content["annotations"]]
    assert (summary["images"], summary["captions"]) == (80, len(captions))
    assert summary["splits"]["test"] == {"images": 20, "captions": len(contents[1]["annotations"])}
    assert sum(split["images"] for split in summary["splits"].values()) == 80
    assert (summary["per_image"]["min"], summary["per_image"]["max"]) == (5, 7)
    words = sorted(len(caption.split()) for caption in captions)
    assert (summary["words"]["min"], summary["words"]["max"]) == (words[0], words[-1])
    histogram = {entry["words"]: entry["captions"] for entry in summary["words"]["histogram"]}
    assert histogram["1-5"] == sum(count <= 5 for count in words)
    assert sum(histogram.values()) == len(words)
    assert summary["missing"] == {"images": 0, "first": []}
    assert summary["remarks"] == []
    assert (summary["too_long"]["captions"], summary["too_long"]["context_length"]) == (0, 77)


@pytest.fixture
def copy(coco_root, tmp_path):
    return shutil.copytree(coco_root, tmp_path / "coco")


def test_captions_that_clip_truncates_are_counted_with_prompt_and_cleaning(copy):
    path = copy / "annotations" / "captions_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["caption"] = "dog , " * 38
    content["annotations"][1]["caption"] = "dog " * 75
    path.write_text(json.dumps(content))
    assert check(copy)["too_long"]["captions"] == 1
    assert check(copy)["too_long"]["first"] == [str(content["annotations"][0]["id"])]
    assert check(copy, prompt="a photo of {}")["too_long"]["captions"] == 2
    assert check(copy, caption_clean="strip-punctuation")["too_long"]["captions"] == 0


def test_missing_images_are_counted_and_the_first_five_named(copy):
    gone = sorted((copy / "train2017").iterdir())[:7]
    for path in gone:
        path.unlink()
    with pytest.raises(DatasetError) as caught:
        check(copy)
    first = ", ".join(f"train2017/{path.name}" for path in gone[:5])
    assert str(caught.value) == (
        f"7 of 80 images of 'coco' are not in {copy}: {first}, ...; put them there, say where they are with --root, or "
        f"skip them: --skip-missing"
    )
    assert check(copy, skip_missing=True)["missing"] == {
        "images": 7,
        "first": [f"train2017/{path.name}" for path in gone[:5]],
    }


def test_no_image_is_opened(copy):
    for path in copy.glob("*2017/*.jpg"):
        path.write_text("not an image")
    assert check(copy)["images"] == 80


@pytest.fixture
def deep(tmp_path):
    """A folder of scans: of 16 bits and of floats, which clip's conversion makes one colour, and others."""
    folder, noise = tmp_path / "scans", np.random.default_rng(0)
    folder.mkdir()
    Image.fromarray(noise.integers(300, 65536, (24, 24), dtype=np.uint16)).save(folder / "bright.png")
    Image.fromarray(noise.random((24, 24), dtype=np.float32)).save(folder / "float.tif")
    Image.fromarray(noise.integers(0, 255, (24, 24), dtype=np.uint16)).save(folder / "dim.png")
    Image.new("RGB", (24, 24), "teal").save(folder / "flat.png")
    Image.new("RGB", (24, 24), "teal").save(folder / "flat.jpg")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_images_of_many_bits_that_become_one_colour_are_counted(deep, tmp_path):
    names = sorted(path.name for path in deep.iterdir())
    table = "".join(f"{name},a scan\n" for name in names)
    (deep / "x.csv").write_text(f"image,caption\n{table}")
    reports = []
    summary = check_dataset(CheckConfig(dataset=str(deep / "x.csv")), on_progress=reports.append)
    assert summary["single_colour"] == {"images": 2, "first": "bright.png"}
    assert [(report.done, report.total) for report in reports if report.phase == "image headers"][-1] == (5, 5)
    shard = {name: content for name in names for name, content in samples(deep / name)}
    write_shard(tmp_path / "shards" / "0.tar", shard)
    summary = check_dataset(CheckConfig(dataset=str(tmp_path / "shards" / "0.tar")))
    assert summary["single_colour"] == {"images": 1, "first": "0.tar/bright-png.png"}


def samples(path):
    """An image and its caption, as members of a shard."""
    name = path.name.replace(".", "-")
    return [(f"{name}{path.suffix}", path.read_bytes()), (f"{name}.txt", "a scan")]


def test_of_files_of_eight_bits_none_is_opened(coco_root, monkeypatch):
    monkeypatch.setattr("clipret.images.depth.Image.open", None)
    monkeypatch.setattr("clipret.images.depth.require_file", None)
    reports = []
    summary = check_dataset(CheckConfig(dataset="coco", root=coco_root), on_progress=reports.append)
    assert summary["single_colour"] == {"images": 0, "first": None}
    assert "image headers" not in {report.phase for report in reports}
