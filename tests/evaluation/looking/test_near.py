"""The nearest items of other splits are found exactly, however many there are."""

import csv

import numpy as np
import pytest

from clipret import ExtractConfig, FeatureCache, LookConfig, extract, write_cache
from clipret.evaluation.looking import near
from clipret.evaluation.looking.leaks import find_leaks, find_near_captions
from clipret.evaluation.looking.near import near_pairs
from clipret.evaluation.looking.stage import examine
from clipret.machine.progress import silent


@pytest.fixture(scope="module")
def alike(searchable, tmp_path_factory):
    """A cache of 80 drawings, in whose test split three captions are as those of train but for a word or two."""
    folder = tmp_path_factory.mktemp("alike")
    cache = FeatureCache(searchable.cache)
    rows = []
    for row, file in enumerate(cache.image_files[:80]):
        caption = cache.captions[np.flatnonzero(cache.caption_images == row)[0]]
        rows.append((file, caption, "test" if row % 4 == 0 else "train"))
    pairs = [("woman in motorized wheelchair", "woman in motorized wheelchair facing right"),
             ("person with white cane", "person with white cane facing right"),
             ("magnifying glass tilted left", "magnifying glass tilted right")]  # fmt: skip
    for number, (of_train, of_test) in enumerate(pairs):
        rows += [(rows[4 * number + 1][0], of_train, "train"), (rows[4 * number][0], of_test, "test")]
    # The same words are leaks, and said once; twice in test the pair is said once too.
    rows += [(rows[1][0], "a leak", "train"), (rows[0][0], "A leak!", "test"), (rows[8][0], pairs[0][1], "test")]
    with (folder / "alike.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *rows])
    settings = {"root": searchable.root, "model": "tiny-emoji", "workers": 0, "device": "cpu"}
    extract(ExtractConfig(dataset=str(folder / "alike.csv"), out=folder / "alike.h5", **settings))
    return folder / "alike.h5", {(of_test, of_train) for of_train, of_test in pairs}


def test_captions_that_are_nearly_alike_are_told_apart_from_leaks(alike, tmp_path):
    path, pairs = alike
    found = examine(LookConfig(cache=path, leaks=tmp_path / "leaks.csv"))
    listed = [(pair["caption"], pair["other_caption"]) for pair in found["near_captions"]]
    assert pairs <= set(listed)
    assert len(listed) == len(set(listed)) <= len(pairs) + 3
    assert all(pair["cosine"] >= 0.95 and pair["ratio"] <= 0.5 for pair in found["near_captions"])
    assert [pair["ratio"] for pair in found["near_captions"]] == sorted(
        pair["ratio"] for pair in found["near_captions"]
    )
    said = {(leak["caption"], leak["other_caption"]) for leak in found["leaks"] if leak["kind"] == "same caption"}
    assert said == {("A leak!", "a leak")}
    assert "near caption" not in found["leak_counts"]
    with (tmp_path / "leaks.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    rows = [row for row in table if row["kind"] == "near caption"]
    assert [(row["caption"], row["other_caption"]) for row in rows] == listed
    assert len(table) == len(found["leaks"]) + len(listed)


def test_thresholds_are_those_that_were_asked_for(alike):
    cache = FeatureCache(alike[0])
    every = find_near_captions(cache, least=0.0, ratio=1.0, on_progress=silent)
    some = find_near_captions(cache, least=0.95, ratio=0.3, on_progress=silent)
    assert len(some) < len(every)
    assert some == [pair for pair in every if pair["cosine"] >= 0.95 and pair["ratio"] <= 0.3]
    assert find_leaks(cache, least=1.0, ratio=0.0, on_progress=silent)[-1]["kind"] == "same caption"


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("least", [0.7, 0.95])
def test_short_vectors_leave_nothing_out(alike, monkeypatch, side, least):
    cache, settings = FeatureCache(alike[0]), {"least": least, "ratio": 0.9, "on_progress": silent}
    plain, asked = list(near_pairs(cache, side, **settings)), []
    monkeypatch.setattr(near, "_MANY", 1)
    monkeypatch.setattr(near, "_DIRECTIONS", 32)
    monkeypatch.setattr(near, "_QUERIES", 7)

    def counted(queries, items, *, k):
        asked.append((k, len(queries)))
        return found(queries, items, k=k)

    found = near.nearest
    monkeypatch.setattr(near, "nearest", counted)
    assert list(near_pairs(cache, side, **settings)) == plain
    assert plain
    searched, bounded = (sum(count for k, count in asked if (k == 1) == bounds) for bounds in (False, True))
    assert searched < bounded


def test_progress_counts_the_items_of_the_first_split(alike):
    cache, seen = FeatureCache(alike[0]), []
    list(near_pairs(cache, "text", least=0.9, ratio=0.5, on_progress=seen.append))
    splits = cache.image_splits[cache.caption_images]
    assert (seen[-1].phase, seen[-1].done, seen[-1].total) == ("captions", np.sum(splits == 2), np.sum(splits == 2))


@pytest.mark.parametrize("times", [1, 2, 7, 8])
def test_a_copy_is_found_however_often_the_other_split_has_what_it_is_of(tmp_path, times):
    generator = np.random.default_rng(0)
    values = generator.standard_normal((20, 64)).astype(np.float32)
    copy = values[3] + 0.02 * generator.standard_normal(64).astype(np.float32)
    train = np.concatenate([values, np.repeat(values[3:4], times - 1, axis=0)])
    images = np.concatenate([train, [copy]])
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    splits = ["train"] * len(train) + ["test"]
    count = len(images)
    write_cache(
        tmp_path / "a.h5", images=images, texts=images, caption_images=np.arange(count), splits=splits,
        image_ids=[f"{row}" for row in range(count)],
    )  # fmt: skip
    settings = {"least": 0.95, "ratio": 0.5, "on_progress": silent}
    found = [pair[:2] for pair in near_pairs(FeatureCache(tmp_path / "a.h5"), "image", **settings)]
    # Of an item that is there more often than is looked at, nothing tells how far the next one is.
    assert found == ([(count - 1, 3)] if times < 8 else [])


def test_an_item_of_a_kind_that_the_other_split_has_twice_is_no_copy(tmp_path):
    generator = np.random.default_rng(0)
    kind, noise = generator.standard_normal(64), generator.standard_normal((3, 64))
    images = (kind + 0.1 * noise).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    write_cache(
        tmp_path / "a.h5", images=images, texts=images, caption_images=np.arange(3), splits=["train", "train", "test"]
    )
    cache = FeatureCache(tmp_path / "a.h5")
    assert not list(near_pairs(cache, "image", least=0.95, ratio=0.5, on_progress=silent))
    assert list(near_pairs(cache, "image", least=0.95, ratio=1.0, on_progress=silent))
