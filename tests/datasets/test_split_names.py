"""Splits under the names that people give them, in every form of data: understood, and said."""

import pytest

from clipret.config import SPLITS
from tests.datasets.test_zipped import packed
from tests.helpers.hub import image, images, save_splits, write_parquet
from tests.helpers.own_data import lines, load, make, write_shard

NAMES = ("Training", "dev", "TEST")
RENAMED = "splits under other names: Training as train, dev as val, TEST as test"


def folder(path):
    return make(path, {f"{name}/{name}.{kind}": name for name in NAMES for kind in ("jpg", "txt")})


def table(path):
    make(path, {"a.jsonl": lines(*({"image": f"{name}.jpg", "caption": name, "split": name} for name in NAMES))})
    return path / "a.jsonl"


def tables(path):
    return make(path, {f"{name}.csv": f"image,caption\n{name}.jpg,{name}\n" for name in NAMES})


def metadata(path):
    return make(path, {f"{name}/metadata.csv": f"file_name,text\n{name}.jpg,{name}\n" for name in NAMES})


def parquet(path):
    for name in NAMES:
        columns = {"image": images([image("red", f"{name}.jpg")]), "caption": [name]}
        write_parquet(path / f"data/{name}-00000-of-00001.parquet", columns)
    return path


def parquet_folders(path):
    for name in NAMES:
        write_parquet(path / f"{name}/0.parquet", {"image": images([image("red", f"{name}.jpg")]), "caption": [name]})
    return path


def saved(path):
    return save_splits(
        path, {name: {"image": images([image("red", f"{name}.jpg")]), "caption": [name]} for name in NAMES}
    )


def karpathy(path):
    columns = {"filename": [f"{name}.jpg" for name in NAMES], "sentids": [[1], [2], [3]], "split": list(NAMES)}
    return write_parquet(path / "a.parquet", {**columns, "raw": [[name] for name in NAMES]})


def zipped(path):
    return packed(path / "a.zip", {f"{name}/{name}.{kind}": name for name in NAMES for kind in ("jpg", "txt")})


def shards(path):
    for name in NAMES:
        write_shard(path / f"{name}-00.tar", {f"{name}.jpg": b"", f"{name}.txt": name})
    return path / "*.tar"


def samples(path):
    members = {f"{name}.json": {"caption": name, "split": name} for name in NAMES}
    return write_shard(path / "a.tar", members | {f"{name}.jpg": b"" for name in NAMES})


FORMS = (folder, table, tables, metadata, parquet, parquet_folders, saved, karpathy, zipped, shards, samples)


@pytest.mark.parametrize("form", FORMS)
def test_splits_under_other_names_are_understood_and_said(tmp_path, form):
    path = form(tmp_path / "shop")
    dataset = load(path)
    splits = [SPLITS[code] for code in dataset.image_splits]
    named = {dataset.captions[row]: splits[image] for row, image in enumerate(dataset.caption_images)}
    assert named == {"Training": "train", "dev": "val", "TEST": "test"}
    (remark,) = [remark for remark in dataset.remarks if remark.startswith("splits under other names")]
    assert sorted(remark.partition(": ")[2].split(", ")) == sorted(RENAMED.partition(": ")[2].split(", "))
    assert not any("other names" in remark for remark in load(path, split="hash").remarks)
