import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from clipret import EvalConfig, FeatureCache, TrainConfig, evaluate, train
from clipret.cache import open_writer
from clipret.errors import CacheError, CacheMismatchError, RunError, UsageError
from clipret.heads.linear import LinearHead
from clipret.protocols.protocol import protocol_digest, split_protocol
from clipret.retrieval import gallery as measurement
from clipret.retrieval.gallery import Gallery, StoredRows, embed
from clipret.retrieval.ranks_file import read_rankings
from tests.conftest import contents, write_cache


@pytest.fixture
def run(cache_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return train(TrainConfig(cache=cache_path, epochs=10, lr=1e-2))["run"]


def naive_recall(cache, k):
    """R@K of zero-shot CLIP on the test split, by plain loops."""
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    images = unit(cache.image_features.astype(np.float64) @ cache.projections["image/weight"])
    texts = unit(cache.text_features.astype(np.float64) @ cache.projections["text/weight"])
    test_images = [row for row in range(len(images)) if cache.image_splits[row] == 2]
    test_texts = [row for row in range(len(texts)) if cache.caption_images[row] in test_images]
    t2i = [
        cache.caption_images[text] in sorted(test_images, key=lambda image: -texts[text] @ images[image])[:k]
        for text in test_texts
    ]
    i2t = [
        any(
            cache.caption_images[text] == image
            for text in sorted(test_texts, key=lambda t: -texts[t] @ images[image])[:k]
        )
        for image in test_images
    ]
    return np.mean(t2i), np.mean(i2t)


def test_zero_shot_equals_a_plain_loop(cache_path):
    report = evaluate(EvalConfig(cache=cache_path, zero_shot=True, k=(1, 2, 5)))
    for k in (1, 2, 5):
        t2i, i2t = naive_recall(FeatureCache(cache_path), k)
        assert report["results"]["zero-shot"]["t2i"][f"R@{k}"] == pytest.approx(t2i)
        assert report["results"]["zero-shot"]["i2t"][f"R@{k}"] == pytest.approx(i2t)


def test_metrics_json_is_the_documented_one(run, cache_path):
    report = evaluate(EvalConfig())
    assert json.loads(Path(run, "metrics.json").read_text()) == report
    captions = int((FeatureCache(cache_path).image_splits[FeatureCache(cache_path).caption_images] == 2).sum())
    cache = FeatureCache(cache_path)
    digest = protocol_digest(cache, split_protocol(cache, split="test"))
    assert report["protocol"] == {
        "name": "split",
        "split": "test",
        "images": 12,
        "captions": captions,
        "images_left_out": 0,
        "folds": 1,
        "t2i": {"queries": captions, "gallery": 12},
        "i2t": {"queries": 12, "gallery": captions},
        "ties": "pessimistic",
        "map_divisor": "min",
        "remarks": [],
        "precision": "fp32",
        "digest": digest,
        "best_reachable": {direction: {"R@1": 1.0, "R@5": 1.0, "R@10": 1.0} for direction in ("t2i", "i2t")},
    }
    assert report["leakage"] == {"checked": True, "trained_on": 0, "images": 12}
    assert "also" not in report
    assert (report["run"], report["finished"]) == (run, True)
    assert report["cache"]["fingerprint"] == FeatureCache(cache_path).fingerprint
    assert list(report["results"]) == ["zero-shot", "trained"]
    names = [f"{family}@{k}" for family in ("R", "mAP", "mAP_hits", "mAP_all", "recall", "nDCG") for k in (1, 5, 10)]
    names += ["MRR", "R-Precision", "mAP@R", "mean_rank", "median_rank"]
    for directions in report["results"].values():
        assert list(directions) == ["t2i", "i2t"]
        assert all(list(metrics) == names for metrics in directions.values())
    assert report["results"]["trained"] != report["results"]["zero-shot"]


def test_validation_scores_are_those_of_training(run, cache_path):
    report = evaluate(EvalConfig(split="val"))
    trained = report["results"]["trained"]
    rsum = sum(trained[direction][f"R@{k}"] for direction in ("t2i", "i2t") for k in (1, 5, 10))
    with Path(run, "history.csv").open(newline="") as file:
        scores = [float(row["val_rsum"]) for row in csv.DictReader(file)]
    assert rsum == pytest.approx(max(scores), abs=1e-5)


def test_k_beyond_the_gallery_is_one(cache_path):
    report = evaluate(EvalConfig(cache=cache_path, zero_shot=True, k=(1000,)))
    assert report["results"]["zero-shot"]["t2i"]["R@1000"] == report["results"]["zero-shot"]["i2t"]["R@1000"] == 1.0


@pytest.mark.parametrize("block", [1, 5, 4096])
def test_the_block_changes_nothing(run, block):
    assert evaluate(EvalConfig(block=block))["results"] == evaluate(EvalConfig())["results"]


def test_the_newest_run_is_taken_and_an_unfinished_one_is_not(run, cache_path):
    newer = train(TrainConfig(cache=cache_path, epochs=1))["run"]
    os.utime(f"{run}/head.safetensors", ns=(0, 0))
    Path("runs/9999-margin-linear").mkdir()
    assert evaluate(EvalConfig())["run"] == newer
    assert evaluate(EvalConfig(head=run))["run"] == run
    assert evaluate(EvalConfig(head=f"{run}/head.safetensors"))["run"] == run


def test_a_run_that_has_not_come_to_its_end_is_called_unfinished(run):
    Path(run, "result.json").unlink()
    assert evaluate(EvalConfig())["finished"] is False
    assert read_rankings(Path(run, "ranks.safetensors")).trained.finished is False


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("runs/typo", "there is no head at runs/typo; expected a head.safetensors written by clipret train."),
        ("made.h5/x", "there is no head at made.h5/x; expected a head.safetensors written by clipret train."),
        ("swept", "swept is a sweep, not a run; give one of its runs, such as --head swept/0001-margin-linear"),
        (
            "swept/dropped",
            "swept/dropped has no head: training stopped before the first head was saved, or the sweep deleted it "
            "(--keep-heads).",
        ),
    ],
)
def test_a_missing_head_is_reported(run, head, message):
    shutil.copytree(run, "swept/0001-margin-linear")
    shutil.copytree(run, "swept/dropped")
    Path("swept/dropped/head.safetensors").unlink()
    Path("swept/sweep.json").write_text("{}")
    for cache in (None, "made.h5"):
        with pytest.raises(RunError) as caught:
            evaluate(EvalConfig(head=head, cache=cache))
        assert str(caught.value) == message


def test_a_cache_that_was_moved_is_asked_for(run, cache_path):
    cache_path.rename("moved.h5")
    with pytest.raises(CacheError) as caught:
        evaluate(EvalConfig())
    assert str(caught.value) == (
        f"there is no cache at {cache_path}, where it was when {run} was trained; give its path with --cache FILE."
    )
    assert evaluate(EvalConfig(cache="moved.h5"))["run"] == run


def test_runs_below_a_file_are_refused(run):
    with pytest.raises(
        RunError, match=r"^runs/0001-margin-linear/config.json is not a folder; give another --runs-dir"
    ):
        evaluate(EvalConfig(runs_dir=f"{run}/config.json"))


def test_a_bare_head_needs_a_cache_and_leaves_no_file_unless_asked(run, cache_path, tmp_path):
    Path(run, "head.safetensors").rename("alone.safetensors")
    with pytest.raises(UsageError, match=r"alone.safetensors is not in a run's folder.*--cache FILE"):
        evaluate(EvalConfig(head="alone.safetensors"))
    report = evaluate(EvalConfig(head="alone.safetensors", cache=cache_path))
    assert (report["run"], report["finished"]) == (None, None)
    assert not (tmp_path / "metrics.json").exists()
    evaluate(EvalConfig(head="alone.safetensors", cache=cache_path, out="here.json"))
    assert json.loads((tmp_path / "here.json").read_text()) == report


def test_a_cache_that_changed_since_the_run_is_refused(run, cache_path):
    cache_path.unlink()
    write_cache(cache_path, contents(inputs={**contents().inputs, "prompt": "a {}"}))
    with pytest.raises(CacheMismatchError, match=r"is not the cache that runs/0001-margin-linear was trained on"):
        evaluate(EvalConfig())
    assert evaluate(EvalConfig(cache=cache_path))["run"] == run


def test_unusable_images_are_left_out_with_their_captions_and_counted(tmp_path):
    path, cache_contents = tmp_path / "made.h5", contents()
    with open_writer(path, cache_contents) as writer:
        features = np.random.default_rng(0).normal(size=(60, 24)).astype(np.float16)
        writer.write_images(0, features=features, problems={4: "broken", 0: "broken"})
        rows = len(cache_contents.captions)
        texts = np.random.default_rng(1).normal(size=(rows, 16)).astype(np.float16)
        writer.write_texts(0, features=texts, tokens=np.full(rows, 3))
    protocol = evaluate(EvalConfig(cache=path, zero_shot=True))["protocol"]
    left = [row for row in np.flatnonzero(cache_contents.image_splits == 2) if row != 4]
    assert (protocol["images"], protocol["images_left_out"]) == (11, 1)
    assert protocol["captions"] == int(np.isin(cache_contents.caption_images, left).sum())


def test_an_empty_split_lists_the_other_splits(cache_path):
    with pytest.raises(UsageError, match=r"split 'restval' has 0 usable images.*train 36, val 12, test 12, restval 0"):
        evaluate(EvalConfig(cache=cache_path, zero_shot=True, split="restval"))


def test_no_run_says_how_to_get_one(tmp_path):
    with pytest.raises(RunError, match=r"there is no trained run in .*; train one with: clipret train"):
        evaluate(EvalConfig(runs_dir=tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 2, "cache": {"path": "x", "fingerprint": "y"}}'])
def test_a_spoiled_config_is_one_clear_line(run, content):
    Path(run, "config.json").write_text(content)
    with pytest.raises(RunError, match="train the run again") as caught:
        evaluate(EvalConfig())
    assert "\n" not in str(caught.value)


class Watched(LinearHead):
    """A head that remembers what it was given."""

    def embed_images(self, features):
        self.given = features
        return super().embed_images(features)


def galleries(cache_path):
    cache = FeatureCache(cache_path)
    (fold,) = split_protocol(cache, split="test").folds
    return Gallery.read(cache, fold), Watched(cache.projections)


def test_a_small_gallery_is_widened_once(cache_path):
    gallery, head = galleries(cache_path)
    first = gallery.measure(head, device="cpu")
    widened = head.given
    assert gallery.measure(head, device="cpu") == first
    assert head.given is widened
    assert widened.dtype == torch.float32
    assert np.array_equal(widened.numpy(), gallery.images)


def test_a_large_gallery_is_not_held_in_float32_and_measures_the_same(cache_path, monkeypatch):
    gallery, head = galleries(cache_path)
    expected = gallery.measure(head, device="cpu")
    monkeypatch.setattr(measurement, "_HELD_BYTES", 4 * (gallery.images.size + gallery.texts.size) - 1)
    large, _ = galleries(cache_path)
    assert large.measure(head, device="cpu") == expected
    assert head.given.dtype == torch.float16
    assert not large._on_device
    assert isinstance(large.images, StoredRows)


@pytest.mark.parametrize("block", [1, 5, 100])
def test_stored_rows_are_embedded_as_those_in_memory(cache_path, block):
    cache = FeatureCache(cache_path)
    head, rows = LinearHead(cache.projections), np.array([7, 3, 3, 40, 0, 11, 12])
    stored = embed(head.embed_images, StoredRows(cache, "image", rows=rows), device="cpu", block=block)
    at_once = embed(head.embed_images, torch.from_numpy(cache.image_features[rows]), device="cpu")
    torch.testing.assert_close(stored, at_once, rtol=1e-6, atol=1e-7)


def test_a_non_finite_feature_of_a_large_gallery_is_reported(tmp_path, monkeypatch):
    path, cache_contents = tmp_path / "spoiled.h5", contents()
    with open_writer(path, cache_contents) as writer:
        writer.write_images(0, features=np.full((60, 24), np.nan, np.float16), problems={})
        rows = len(cache_contents.captions)
        writer.write_texts(0, features=np.ones((rows, 16), np.float16), tokens=np.full(rows, 3))
    monkeypatch.setattr(measurement, "_HELD_BYTES", 0)
    with pytest.raises(CacheError, match=r"features of 12 image rows are not finite, the first of row \d+;"):
        evaluate(EvalConfig(cache=path, zero_shot=True))
