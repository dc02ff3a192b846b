"""eval --scoring: figures beside those by cosine, their intervals, and what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from clipret import CompareConfig, EvalConfig, FailuresConfig, TrainConfig, compare, evaluate, find_failures, train
from clipret.config.metric_names import RSUM
from clipret.errors import UsageError
from clipret.retrieval.ranks_file import read_rankings
from clipret.retrieval.scorings import SCORINGS, ScoringRow, load_scoring
from clipret.statistics.flips import flip_tests
from clipret.statistics.intervals import Evidence, tabulate
from clipret.statistics.significance import intervals_of
from tests.conftest import contents, write_cache


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_cache(tmp_path / "made.h5", contents(images=200))
    return train(TrainConfig(cache=path, epochs=3, lr=1e-2))["run"]


@pytest.mark.parametrize("name", SCORINGS)
def test_the_scoring_stands_beside_cosine_which_stays_as_it_is(run, name):
    plain = evaluate(EvalConfig(resamples=200))
    report = evaluate(EvalConfig(resamples=200, scoring=name))
    assert "scoring" not in plain
    scoring = report.pop("scoring")
    assert report == plain
    assert scoring["name"] == name
    assert scoring["bank"]["split"] == "train"
    assert scoring["bank"]["images"] == 120
    for part in (scoring["parameters"], scoring["val"], scoring["results"], scoring["rsum"]):
        assert list(part) == ["zero-shot", "trained"]
    for head, directions in scoring["parameters"].items():
        for direction, parameters in directions.items():
            assert parameters in load_scoring(name).grid
            assert set(scoring["val"][head][direction]) == {"cosine", name}
    for head, of_cosine in plain["results"].items():
        assert scoring["results"][head] != of_cosine
        assert list(scoring["results"][head]["t2i"]) == list(of_cosine["t2i"])
        recalls = [scoring["results"][head][way][f"R@{k}"] for way in ("t2i", "i2t") for k in (1, 5, 10)]
        assert scoring["rsum"][head] == pytest.approx(sum(recalls))
    saved = json.loads(Path(run, "metrics.json").read_text())
    assert saved == {**report, "scoring": scoring}


def test_gains_are_the_paired_intervals_of_the_stored_ranks(run):
    report = evaluate(EvalConfig(resamples=300, scoring="nnn", seed=4))
    intervals = report["scoring"]["intervals"]
    (ranked,) = read_rankings(Path(run, "ranks.safetensors")).protocols
    assert list(ranked.heads) == ["zero-shot", "trained", "zero-shot nnn", "trained nnn"]
    columns = ((0, "R@1"), (1, "MRR"), (None, RSUM))
    for head in ("zero-shot", "trained"):
        tables = tabulate([ranked.heads[f"{head} nnn"], ranked.heads[head]], k=(1, 5, 10), families=("R", "MRR"))
        evidence = Evidence(tables, columns, k=(1, 5, 10))
        (test,) = flip_tests(evidence, [(0, 1)], flips=300, level=0.95, seed=4)
        gain = intervals["gain"][head]
        assert [gain["t2i"]["R@1"], gain["i2t"]["MRR"], gain[RSUM]] == [
            pytest.approx(interval) for interval in intervals_of(test)
        ]
        assert gain["t2i"]["median_rank"] is None
        low, high = intervals["heads"][head]["t2i"]["R@1"]
        assert low <= report["scoring"]["results"][head]["t2i"]["R@1"] <= high


def test_without_resamples_there_are_no_intervals_and_every_query_is_written_by_both(run, tmp_path):
    path = tmp_path / "ranks.parquet"
    report = evaluate(EvalConfig(resamples=0, scoring="dis", per_query=path, top=2))
    assert report["scoring"]["intervals"] is report["intervals"] is None
    table = pyarrow.parquet.read_table(path).to_pylist()
    for head in ("zero-shot", "trained"):
        for name, results in ((head, report["results"]), (f"{head} dis", report["scoring"]["results"])):
            for direction in ("t2i", "i2t"):
                rows = [row for row in table if (row["head"], row["direction"]) == (name, direction)]
                assert np.mean([row["rank"] <= 5 for row in rows]) == pytest.approx(results[head][direction]["R@5"])
                assert all((row["rank"] == 1) <= (len(row["top_ids"]) == 2) for row in rows)


def test_each_protocol_has_its_own_figures_with_the_same_parameters(run):
    report = evaluate(EvalConfig(resamples=0, scoring="nnn", protocol=("split", "split-equal-texts")))
    first, second = report, *report["also"]
    assert first["scoring"]["parameters"] == second["scoring"]["parameters"]
    assert first["scoring"]["results"] == second["scoring"]["results"]
    assert second["protocol"]["name"] == "split-equal-texts"


def test_the_block_and_interpolated_heads(run):
    wide, narrow = (evaluate(EvalConfig(resamples=0, scoring="nnn", block=b, wise_ft=(0.5,))) for b in (512, 3))
    assert wide == narrow
    assert list(wide["scoring"]["results"]) == ["zero-shot", "wise-ft 0.5", "trained"]


def test_zero_shot_alone_and_on_val(run):
    report = evaluate(EvalConfig(cache="made.h5", zero_shot=True, split="val", scoring="csls", resamples=0))
    scoring = report["scoring"]
    for direction in ("t2i", "i2t"):
        values = scoring["results"]["zero-shot"][direction]
        recalls = sum(values[f"R@{k}"] for k in (1, 5, 10))
        # Chosen on what is measured.
        assert scoring["val"]["zero-shot"][direction]["csls"] == pytest.approx(recalls)


def test_compare_has_the_difference_and_failures_stay_with_cosine(run):
    report = evaluate(EvalConfig(scoring="nnn", resamples=200))
    result = compare(CompareConfig(runs=(f"{run}@nnn", run), metrics=("R@5",), permutations=200))
    difference = result["pairs"][0]["difference"]
    values = [part["trained"]["t2i"]["R@5"] for part in (report["scoring"]["results"], report["results"])]
    assert difference == pytest.approx(values[0] - values[1])
    assert result["remarks"] == [f"scored in different ways: {run}@nnn by nnn; {run} by cosine"]
    assert find_failures(FailuresConfig())["heads"] == ["zero-shot", "trained"]


def test_scorings_that_are_not_there_and_splits_that_are_the_bank_are_refused(run):
    with pytest.raises(UsageError) as caught:
        evaluate(EvalConfig(scoring="mine"))
    assert str(caught.value) == "--scoring is 'mine'; expected one of: cosine, nnn, dis, csls."
    with pytest.raises(UsageError) as caught:
        EvalConfig(scoring="nnn", split="train")
    assert str(caught.value) == (
        "--scoring nnn and --split train contradict each other: train is the bank that the scoring is made from; give "
        "another split."
    )


def test_a_cache_without_train_is_one_line_before_anything_is_measured(tmp_path):
    path = write_cache(tmp_path / "made.h5", contents(images=6, image_splits=np.array([1, 2] * 3, dtype=np.uint8)))
    with pytest.raises(
        UsageError, match=r"^--scoring nnn needs a train split, as its bank, and a val split, to choose"
    ):
        evaluate(EvalConfig(cache=path, zero_shot=True, scoring="nnn"))


OWN = '''
"""Items lose a tenth of their mean cosine with the bank."""

from clipret.retrieval.scorings.scoring import Scoring


class Mean:
    def __init__(self):
        self.total, self.count = 0.0, 0

    def add(self, similarities):
        self.total = self.total + similarities.double().sum(dim=1)
        self.count += similarities.shape[1]


SCORING = Scoring(
    statistics=Mean,
    correction=lambda mean, *, share: share * mean.total / mean.count,
    grid=({"share": 0.1},),
)
'''


def test_a_new_scoring_is_one_file_and_one_row(run, tmp_path, monkeypatch):
    (tmp_path / "mean_scoring.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SCORINGS, "mean", ScoringRow("mean_scoring", help="mean cosine"))
    report = evaluate(EvalConfig(scoring="mean", resamples=0))
    assert report["scoring"]["parameters"]["trained"] == {"t2i": {"share": 0.1}, "i2t": {"share": 0.1}}
    result = compare(CompareConfig(runs=(f"{run}@mean", f"{run}"), metrics=("R@1",), permutations=100))
    assert [group["label"] for group in result["groups"]] == ["scoring=mean", "scoring=cosine"]
    sys.modules.pop("mean_scoring")
