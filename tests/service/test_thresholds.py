"""The score from which on hits are mostly right."""

import csv

import numpy as np
import pytest

from clipret import FeatureCache, SearchConfig, search
from clipret.errors import UsageError
from clipret.service.thresholds import lowest_value


def naive(scores, matching, precision):
    good = []
    for value in set(scores.tolist()):
        kept = matching[scores >= value]
        if kept.mean() >= precision:
            good.append(value)
    return min(good, default=None)


@pytest.mark.parametrize("precision", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_it_is_the_lowest_that_reaches_the_precision(precision):
    rng = np.random.default_rng(0)
    for _ in range(20):
        # With ties, which are taken or left together.
        scores = rng.integers(0, 12, 40) / 12
        matching = rng.random(40) < scores
        value, share, kept = lowest_value(scores, matching, precision=precision)
        assert value == naive(scores, matching, precision)
        if value is not None:
            assert share == pytest.approx(matching[scores >= value].mean())
            assert kept == int(np.sum(scores >= value))


def test_without_such_a_value_the_best_share_is_told():
    assert lowest_value(np.array([0.9, 0.8]), np.array([False, True]), precision=0.9) == (None, 0.5, 0)


@pytest.mark.parametrize("find", ["images", "captions"])
def test_hits_on_val_are_right_as_often_as_was_asked(searchable, tmp_path, find):
    asked = {"cache": searchable.cache, "head": searchable.run, "find": find, "embeddings": tmp_path}
    least = search(SearchConfig(**asked, query="x", min_score="auto", precision=0.6))["min_score"]
    assert 0.6 <= least["precision"] <= 1
    cache = FeatureCache(searchable.cache)
    if find == "captions":
        return
    rows = cache.rows("text", split="val")
    (tmp_path / "q.txt").write_text("".join(f'"{cache.captions[row]}"\n' for row in rows), encoding="utf-8")
    settings = asked | {"queries": tmp_path / "q.txt", "out": tmp_path / "h.csv", "split": "val"}
    search(SearchConfig(**settings, min_score=repr(least["value"])))
    with (tmp_path / "h.csv").open(newline="", encoding="utf-8") as file:
        hits = list(csv.DictReader(file))
    total = len(hits)
    right = sum(int(hit["row"]) == cache.caption_images[rows[int(hit["query"]) - 1]] for hit in hits)
    assert total == pytest.approx(least["val_hits"], abs=1)
    assert right / total == pytest.approx(least["precision"], abs=0.03)


def test_a_precision_that_is_out_of_reach_is_refused(searchable, tmp_path, monkeypatch):
    monkeypatch.setattr("clipret.service.thresholds.lowest_value", lambda *args, **settings: (None, 0.25, 0))
    with pytest.raises(UsageError) as caught:
        search(SearchConfig(cache=searchable.cache, query="x", min_score="auto", precision=1.0, embeddings=tmp_path))
    assert str(caught.value) == (
        "no cosine has 100% of the hits on val right; the best has 25%: give a lower --precision, or a number to "
        "--min-score."
    )
