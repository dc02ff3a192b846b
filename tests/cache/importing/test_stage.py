"""clipret import: a folder of clip-retrieval's, through every stage."""

import json

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest

from clipret import EvalConfig, FeatureCache, ImportConfig, TrainConfig, VerifyConfig, cli, evaluate, train, verify
from clipret import import_features as run_import
from clipret.annotations.splits import OWN_FRACTIONS, split_by_hash
from clipret.config import SPLITS
from clipret.errors import CacheMismatchError, DatasetError, UsageError
from tests.helpers.ready_made import embeddings, recall_by_hand, write_clip_retrieval

ROWS = 300


@pytest.fixture(scope="module")
def sides():
    return embeddings(ROWS, noise=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sides):
    return write_clip_retrieval(tmp_path_factory.mktemp("made") / "embeddings", *sides)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_of_three_shards_is_one_cache_with_its_captions_and_paths(folder, sides, here):
    result = run_import(ImportConfig(folder=folder, out="shop.h5"))
    cache = FeatureCache("shop.h5")
    assert (result["images"], result["captions"], result["features"]) == (ROWS, ROWS, "final embeddings, normalised")
    assert result["fingerprint"] == cache.fingerprint
    np.testing.assert_array_equal(cache.image_features, sides[0].astype(np.float16))
    np.testing.assert_array_equal(cache.text_features, sides[1].astype(np.float16))
    assert list(cache.captions) == [f"caption {row}" for row in range(ROWS)]
    assert cache.image_files[7] == "photos/0007.jpg"
    assert cache.image_ids[:2] == ["0", "1"]
    np.testing.assert_array_equal(cache.projections["image/weight"], np.eye(16))
    expected = split_by_hash(list(cache.image_files), fractions=OWN_FRACTIONS)
    np.testing.assert_array_equal(cache.image_splits, expected)
    assert result["split_rule"] == "hash 80/10/10 of the images' paths"


def test_its_figures_are_those_of_numpy(folder, sides, here):
    run_import(ImportConfig(folder=folder, out="shop.h5", split="test"))
    measured = evaluate(EvalConfig(cache="shop.h5", zero_shot=True))["results"]["zero-shot"]
    for k in (1, 5, 10):
        t2i, i2t = recall_by_hand(*(side.astype(np.float16) for side in sides), owners=np.arange(ROWS), k=k)
        assert (measured["t2i"][f"R@{k}"], measured["i2t"][f"R@{k}"]) == pytest.approx((t2i, i2t))
    assert 0.3 < measured["t2i"]["R@1"] < 1


def test_a_head_is_trained_on_it_and_measured_beside_zero_shot(folder, here):
    run_import(ImportConfig(folder=folder, out="shop.h5"))
    run = train(TrainConfig(cache="shop.h5", epochs=2, batch_size=32))["run"]
    assert set(evaluate(EvalConfig(head=run))["results"]) == {"zero-shot", "trained"}


def test_verify_finds_a_flipped_byte(folder, here):
    run_import(ImportConfig(folder=folder, out="shop.h5"))
    assert verify(VerifyConfig("shop.h5"))["sound"]
    with h5py.File("shop.h5") as file:
        place = file["text/features"].id.get_offset() + 32 * 41 + 5
    content = bytearray((here / "shop.h5").read_bytes())
    content[place] ^= 16
    (here / "shop.h5").write_bytes(content)
    result = verify(VerifyConfig("shop.h5"))
    assert not result["sound"]
    assert result["checks"][2]["faults"] == ["not what was written: 1 rows: 41"]
    assert result["verdict"].endswith(f"again with: clipret import {folder} --out shop.h5")


def test_the_same_import_again_changes_nothing_and_other_values_are_named(folder, here):
    first = run_import(ImportConfig(folder=folder, out="shop.h5"))
    content = (here / "shop.h5").read_bytes()
    assert run_import(ImportConfig(folder=folder, out="shop.h5"))["fingerprint"] == first["fingerprint"]
    assert (here / "shop.h5").read_bytes() == content
    images, texts = embeddings(ROWS, noise=1.0)
    images[123] = images[122]
    other = write_clip_retrieval(here / "other", images, texts)
    with pytest.raises(CacheMismatchError) as caught:
        run_import(ImportConfig(folder=other, out="shop.h5"))
    assert str(caught.value) == (
        f"shop.h5: image row 123 was written with other values than {other}/img_emb/img_emb_1.npy, row 23 has now. "
        f"Nothing was changed; give another --out, or delete it."
    )


@pytest.mark.parametrize(
    ("split", "expected", "rule"),
    [
        (None, [0, 1, 2], "given"),
        ("given", [0, 1, 2], "given"),
        ("hash", None, "hash 80/10/10 of the images' paths"),
        ("restval", [3, 3, 3], "all are restval"),
    ],
)
def test_splits_are_the_tables_or_those_of_a_rule(tmp_path, split, expected, rule):
    names = ["train", "validation", "TEST"] * 10
    folder = write_clip_retrieval(tmp_path / "in", *embeddings(30), split=names)
    result = run_import(ImportConfig(folder=folder, out=tmp_path / "a.h5", split=split))
    codes = FeatureCache(tmp_path / "a.h5").image_splits
    assert result["split_rule"] == rule
    if expected is None:
        assert set(codes.tolist()) <= {0, 1, 2}
        assert codes.tolist() != [0, 1, 2] * 10
    else:
        assert codes.tolist() == expected * 10


def folded(tmp_path, *, images=None, paths=None, **columns):
    """Six rows of three images."""
    made, texts = embeddings(6)
    made[1] = made[0]
    made[4:6] = made[3]
    images = made if images is None else images
    paths = paths or ["a.jpg", "a.jpg", "b.jpg", "c.jpg", "c.jpg", "c.jpg"]
    return write_clip_retrieval(tmp_path / "in", images, texts, shards=2, paths=paths, **columns), images


def test_rows_of_one_image_one_after_the_other_are_folded(tmp_path):
    folder, images = folded(tmp_path, split=["train", "train", "val", "test", "test", "test"])
    result = run_import(ImportConfig(folder=folder, out=tmp_path / "a.h5"))
    cache = FeatureCache(tmp_path / "a.h5")
    np.testing.assert_array_equal(cache.image_features, images[[0, 2, 3]].astype(np.float16))
    assert list(cache.image_files) == ["a.jpg", "b.jpg", "c.jpg"]
    assert cache.caption_images.tolist() == [0, 0, 1, 2, 2, 2]
    assert [SPLITS[code] for code in cache.image_splits] == ["train", "val", "test"]
    assert result["remarks"] == ["6 rows are 3 images: rows of one image, one after the other, were folded"]


def test_every_row_is_an_image_of_its_own_on_request(tmp_path):
    folder, images = folded(tmp_path)
    run_import(ImportConfig(folder=folder, out=tmp_path / "a.h5", fold=False))
    cache = FeatureCache(tmp_path / "a.h5")
    np.testing.assert_array_equal(cache.image_features, images.astype(np.float16))
    assert cache.caption_images.tolist() == list(range(6))


@pytest.mark.parametrize("row", [1, 4, 5])
def test_rows_of_one_image_with_other_embeddings_are_refused(tmp_path, row):
    folder, images = folded(tmp_path)
    images[row] = -images[row]
    shard = int(row >= 3)
    np.save(folder / "img_emb" / f"img_emb_{shard}.npy", images[3 * shard : 3 * shard + 3].astype(np.float16))
    with pytest.raises(DatasetError) as caught:
        run_import(ImportConfig(folder=folder, out=tmp_path / "a.h5"))
    # Of two rows that follow each other the second is named.
    assert str(caught.value) == (
        f"{folder}/img_emb/img_emb_{shard}.npy, row {row - 3 * shard} differs from the row before, though the table "
        f"names the same image for both; one of them belongs to another image, or keep every row as an image of its "
        f"own with --no-fold."
    )
    assert not (tmp_path / "a.h5").exists()


def test_rows_of_one_image_that_do_not_follow_each_other_are_refused(tmp_path):
    folder, _ = folded(tmp_path, paths=["a.jpg", "a.jpg", "b.jpg", "c.jpg", "d.jpg", "b.jpg"])
    with pytest.raises(DatasetError) as caught:
        run_import(ImportConfig(folder=folder, out=tmp_path / "a.h5"))
    assert str(caught.value) == (
        "the image 'b.jpg' is there more than once, of images 1 and 4; rows of one image follow each other, so sort "
        "all files by it, or keep every row as an image of its own with --no-fold."
    )


def test_a_row_of_features_an_image_and_a_list_of_captions_a_row_fit_too(tmp_path):
    images, texts = embeddings(5)
    np.save(tmp_path / "img.npy", images[:2])
    np.save(tmp_path / "text.npy", texts)
    table = pyarrow.table({"image": ["a", "b"], "caption": [["one", "two", "three"], ["four", "five"]]})
    parquet.write_table(table, tmp_path / "meta.parquet")
    files = {
        name: tmp_path / file
        for name, file in (("images", "img.npy"), ("texts", "text.npy"), ("table", "meta.parquet"))
    }
    run_import(ImportConfig(**files, out=tmp_path / "a.h5"))
    cache = FeatureCache(tmp_path / "a.h5")
    assert cache.caption_images.tolist() == [0, 0, 0, 1, 1]
    assert cache.captions[3] == "four"
    # A caption a row, and a row of image features an image.
    flat = pyarrow.table({"image": ["a", "a", "a", "b", "b"], "caption": list("vwxyz"), "key": [9, 9, 9, 4, 4]})
    parquet.write_table(flat, tmp_path / "meta.parquet")
    run_import(ImportConfig(**files, out=tmp_path / "b.h5", columns="id=key"))
    cache = FeatureCache(tmp_path / "b.h5")
    assert cache.caption_images.tolist() == [0, 0, 0, 1, 1]
    assert list(cache.image_ids) == ["9", "4"]


@pytest.mark.parametrize("side", ["images", "texts"])
def test_one_side_alone_opens_and_is_sound_but_is_not_trained_or_measured_on(tmp_path, side, capsys):
    np.save(tmp_path / "x.npy", embeddings(20)[0])
    out = tmp_path / "a.h5"
    run_import(ImportConfig(**{side: tmp_path / "x.npy"}, out=out))
    assert verify(VerifyConfig(out))["sound"]
    assert cli.main(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"]["all"] == (20 if side == "images" else 0)
    assert cli.main(["info", str(out)]) == 0
    lacks, option = ("captions", "--texts") if side == "images" else ("images", "--images")
    for command in (["train", "--cache", str(out)], ["eval", "--zero-shot", "--cache", str(out)]):
        capsys.readouterr()
        assert cli.main(command) == 1
        assert capsys.readouterr().err == (
            f"error: {out} has no {lacks}: features of one side can be inspected, and not be trained or measured on; "
            f"import those of the other too, with {option} FILE.\n"
        )


def test_the_command_prints_what_was_made_and_what_follows(folder, here, capsys):
    assert cli.main(["import", str(folder), "--out", "shop.h5", "--split", "train", "--model", "ViT-B/32"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("shop.h5: 300 images and 300 captions, imported in ")
    assert out.endswith(
        " s: final embeddings, normalised, float16, split by all are train.\nNext: clipret train --cache shop.h5\n"
    )
    assert cli.main(["info", "shop.h5"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "model ViT-B/32, according to the import (clipret 0.1.0, imported)" in shown
    assert "features image 16, text 16, float16; imported: final embeddings, normalised" in shown


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "import needs features: --images FILE, --texts FILE, or a folder that clip-retrieval wrote."),
        (
            {"folder": "x", "texts": "y.npy"},
            "--texts is beside the folder x, which has its own; leave one of them out.",
        ),
        (
            {"images": "x.npy", "projections": "p.npz", "kind": "final"},
            "--kind is 'final' with --projections; features that go through projections are raw: leave one of them "
            "out.",
        ),
        (
            {"images": "x.npy", "columns": "image=a"},
            "--columns is of use with --table only; give --table FILE, or leave it out.",
        ),
        ({"images": "x.npy", "kind": "best"}, "--kind is 'best'; expected one of: normalised, final, raw."),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UsageError) as caught:
        ImportConfig(**settings, out="a.h5")
    assert str(caught.value) == message


def test_a_row_without_a_split_or_a_path_is_said_or_stands_alone(tmp_path):
    images, texts = embeddings(4)
    paths, names = ["", "", None, "a.jpg"], ["train", "val", "test", "test"]
    folder = write_clip_retrieval(tmp_path / "in", images, texts, shards=1, paths=paths, split=names)
    assert run_import(ImportConfig(folder=folder, out=tmp_path / "a.h5", fold=False))["images"] == 4
    with pytest.raises(DatasetError, match=r"the image '' is there more than once, of images 0 and 1"):
        run_import(ImportConfig(folder=folder, out=tmp_path / "b.h5"))
    names[2] = None
    other = write_clip_retrieval(tmp_path / "other", images, texts, shards=1, split=names)
    with pytest.raises(DatasetError) as caught:
        run_import(ImportConfig(folder=other, out=tmp_path / "c.h5"))
    assert str(caught.value) == (
        f"{other}/metadata/metadata_0.parquet, row 2 has the split nothing; expected one of train, val, test, restval, "
        f"or --split hash."
    )
