"""Other results of evaluation: intervals, ranks, per-query results."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from clipret import EvalConfig, FeatureCache, TrainConfig, evaluate, train
from clipret.config import METRICS
from clipret.config.metric_names import RSUM
from clipret.evaluation import stage as evaluation
from clipret.retrieval.ranks_file import read_rankings
from clipret.statistics.intervals import Evidence, nested, tabulate
from clipret.statistics.significance import estimate, intervals_of
from tests.conftest import write_cache


@pytest.fixture
def run(cache_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return train(TrainConfig(cache=cache_path, epochs=10, lr=1e-2))["run"]


def test_intervals_of_every_head_are_those_of_its_ranks(run):
    report = evaluate(EvalConfig(wise_ft=(0.5,), resamples=200, seed=3))
    intervals, (ranked,) = report["intervals"], read_rankings(Path(run, "ranks.safetensors")).protocols
    assert {name: intervals[name] for name in ("level", "method", "resamples")} == {
        "level": 0.95,
        "method": "mid-P, clustered by image; gain: differences that a sign-flip test over images does not reject",
        "resamples": 200,
    }
    assert list(intervals["heads"]) == list(ranked.heads) == ["zero-shot", "wise-ft 0.5", "trained"]
    for head, rankings in ranked.heads.items():
        names = list(report["results"][head]["t2i"])
        columns = (*((direction, name) for direction in (0, 1) for name in names), (None, "rsum"))
        evidence = Evidence(tabulate([rankings], k=(1, 5, 10), families=METRICS), columns, k=(1, 5, 10))
        alone = nested(intervals_of(estimate(evidence, (0,), level=0.95)), columns)
        for direction in ("t2i", "i2t"):
            assert list(intervals["heads"][head][direction]) == names
            for name, interval in intervals["heads"][head][direction].items():
                assert interval == (None if name == "mean_rank" else pytest.approx(alone[direction][name], abs=1e-12))
                if interval:
                    assert interval[0] - 1e-9 <= report["results"][head][direction][name] <= interval[1] + 1e-9
        assert intervals["heads"][head]["rsum"] == pytest.approx(alone["rsum"], abs=1e-12)


def test_the_gain_is_paired_so_that_of_equal_heads_it_is_an_image_or_two_at_most(run):
    report = evaluate(EvalConfig(resamples=200))
    gain = report["intervals"]["gain"]
    assert gain["t2i"]["R@1"][0] < gain["t2i"]["R@1"][1]
    assert gain["t2i"]["median_rank"] is gain["i2t"]["mean_rank"] is None
    train(TrainConfig(cache=json.loads(Path(run, "config.json").read_text())["cache"]["path"], lr=1e-12, epochs=1))
    report = evaluate(EvalConfig(resamples=200))
    gain, images = report["intervals"]["gain"], report["protocol"]["images"]
    for low, high, limit in ((*gain["t2i"]["R@1"], 1), (*gain["rsum"], 6)):
        assert -6 * limit / images < low < 0 < high < 6 * limit / images


def test_rsum_adds_the_k_that_were_asked_for_and_not_those_that_are_only_shown(cache_path):
    report = evaluate(EvalConfig(cache=cache_path, zero_shot=True, k=(1, 5), metrics=("R@20", RSUM)))
    results = report["results"]["zero-shot"]
    assert {"R@1", "R@5", "R@20"} <= set(results["t2i"])
    expected = sum(results[direction][f"R@{k}"] for direction in ("t2i", "i2t") for k in (1, 5))
    assert report["rsum"] == {"zero-shot": pytest.approx(expected)}
    low, high = report["intervals"]["heads"]["zero-shot"]["rsum"]
    assert low <= expected <= high < 4.1
    assert report["intervals"]["gain"] is None


def test_intervals_can_be_left_out(cache_path):
    assert evaluate(EvalConfig(cache=cache_path, zero_shot=True, resamples=0))["intervals"] is None


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_lower_precision_is_recorded(cache_path, precision):
    protocol = evaluate(EvalConfig(cache=cache_path, zero_shot=True, precision=precision))["protocol"]
    assert protocol["precision"] == precision


def test_ranks_are_written_next_to_the_metrics_in_any_folder(run, tmp_path):
    evaluate(EvalConfig(out=tmp_path / "mine.json"))
    evaluate(EvalConfig())
    mine, own = (read_rankings(path) for path in (tmp_path / "mine.ranks.safetensors", Path(run, "ranks.safetensors")))
    assert mine.cache == own.cache
    assert mine.protocols[0].protocol == own.protocols[0].protocol


def test_every_query_is_written_on_request_with_its_rank_and_best_items(run, cache_path, tmp_path):
    path = tmp_path / "ranks.parquet"
    report = evaluate(EvalConfig(per_query=path, top=3, protocol=("split",)))
    table = pyarrow.parquet.read_table(path).to_pylist()
    protocol = report["protocol"]
    assert len(table) == 2 * (protocol["t2i"]["queries"] + protocol["i2t"]["queries"])
    ids = set(FeatureCache(cache_path).image_ids)
    for head, directions in report["results"].items():
        for direction, metrics in directions.items():
            rows = [row for row in table if (row["head"], row["direction"]) == (head, direction)]
            assert np.mean([row["rank"] <= 5 for row in rows]) == pytest.approx(metrics["R@5"])
            assert np.median([row["rank"] for row in rows]) == metrics["median_rank"]
            assert all(len(row["top_ids"]) == 3 for row in rows)
            # The first item matches exactly when the rank is 1: there are no ties.
            if direction == "t2i":
                assert all((row["top_ids"][0] == row["image"]) == (row["rank"] == 1) for row in rows)
                assert {item for row in rows for item in row["top_ids"]} <= ids


def test_a_long_ranking_shows_its_progress_over_all_heads(run, monkeypatch):
    steps = []
    evaluate(EvalConfig(), on_progress=steps.append)
    assert {step.phase for step in steps} == {"protocols"}
    monkeypatch.setattr(evaluation, "_LONG", 0)
    steps.clear()
    evaluate(EvalConfig(block=5), on_progress=steps.append)
    assert {step.phase for step in steps} == {"ranking", "protocols"}
    counts = [(step.done, step.total) for step in steps if step.phase == "ranking"]
    assert counts == [(done, 24) for done in (4, 8, 12, 16, 20, 24)]


def test_figures_of_two_caches_with_the_same_test_images_have_one_digest(cache_path, tmp_path):
    other = tmp_path / "other.h5"
    write_cache(other, seed=5)
    digests = [evaluate(EvalConfig(cache=path, zero_shot=True))["protocol"]["digest"] for path in (cache_path, other)]
    assert digests[0] == digests[1]
    val = evaluate(EvalConfig(cache=cache_path, zero_shot=True, split="val"))["protocol"]["digest"]
    assert val != digests[0]
