"""The table of metrics: what follows from a row, and that nothing else has to be touched to add one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipret import CompareConfig, EvalConfig, TrainConfig, compare, evaluate, train
from clipret.errors import UsageError
from clipret.metrics import (
    METRICS,
    Metric,
    QueryRanks,
    cut_of,
    family_of,
    heading_of,
    is_lower_better,
    metric_of,
    scale_of,
    validation_metrics,
    values_of,
    with_k,
)
from clipret.reporting import FORMS, SECTIONS
from clipret.retrieval.ranks_file import read_rankings
from tests.helpers.drawing import drawn
from tests.helpers.ranked import best_ranks, write_run

NEW = "mean_percentile_rank_of_a_test"


def percentile_rank(ranks):
    """(Q,) the share of the other items that stand before the best-placed matching one."""
    return (ranks.first - 1) / (ranks.gallery - 1)


@pytest.fixture
def new_row(monkeypatch, tmp_path):
    """The drill: one function and one row."""
    monkeypatch.setitem(METRICS, NEW, Metric(percentile_rank, better="lower"))
    monkeypatch.chdir(tmp_path)


def test_a_new_row_is_evaluated_with_intervals_and_shown(new_row, cache_path):
    run = train(TrainConfig(cache=cache_path, epochs=3, lr=1e-2))["run"]
    config = EvalConfig(metrics=("R@1", NEW), resamples=200)
    report = evaluate(config)
    assert report == json.loads(Path(run, "metrics.json").read_text())
    (ranked,) = read_rankings(Path(run, "ranks.safetensors")).protocols
    for head, directions in report["results"].items():
        for direction, figures in directions.items():
            (ranks,) = ranked.heads[head][direction]
            assert figures[NEW] == pytest.approx(np.mean((ranks.first - 1) / (ranks.gallery - 1)))
            low, high = report["intervals"]["heads"][head][direction][NEW]
            assert 0 <= low <= figures[NEW] <= high <= 1
    gain = report["results"]["trained"]["t2i"][NEW] - report["results"]["zero-shot"]["t2i"][NEW]
    low, high = report["intervals"]["gain"]["t2i"][NEW]
    assert low <= gain <= high
    lines = drawn(SECTIONS["eval"](report, names=config.columns), width=200).splitlines()
    # t2i stands first.
    row = next(line for line in lines if "mean percentile rank of a test" in line)
    low, high = report["intervals"]["heads"]["trained"]["t2i"][NEW]
    assert f"{100 * report['results']['trained']['t2i'][NEW]:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in row
    # Training measures what it did before: the row does not ask for more.
    assert NEW not in Path(run, "history.csv").read_text()


@pytest.mark.parametrize(("first", "second", "verdict"), [(1, 400, "A better"), (400, 1, "B better")])
def test_a_new_row_is_compared_and_lower_is_better(new_row, first, second, verdict):
    generator = np.random.default_rng(0)

    def head(rank):
        ranks = rank + generator.integers(0, 50, size=80)
        return {direction: (best_ranks(ranks, images=range(80)),) for direction in ("t2i", "i2t")}

    runs = [
        write_run(Path("runs", name), head(rank), head(200), config={"loss": loss})
        for name, rank, loss in (("a", first, "margin"), ("b", second, "infonce"))
    ]
    result = compare(CompareConfig(runs=tuple(runs), metrics=(NEW,), permutations=2000))
    assert [pair["verdict"] for pair in result["pairs"]] == [verdict] * 2
    for pair in result["pairs"]:
        low, high = pair["interval"]
        assert low <= pair["difference"] <= high
        assert pair["p_holm"] < 0.05
        assert (pair["difference"] < 0) == (verdict == "A better")
    text = FORMS["markdown"](SECTIONS["compare"](result))
    assert "t2i mean percentile rank of a test" in text
    assert f"{'1' if verdict == 'A better' else '2'} better" in text
    assert "has no interval" not in text


def test_a_row_of_a_k_has_its_names_words_and_bounds(monkeypatch, cache_path):
    monkeypatch.setitem(
        METRICS, "miss", Metric(lambda ranks, cut: 1.0 * (ranks.first > cut), better="lower", needs_k=True)
    )
    assert EvalConfig(metrics=("miss", "miss@7")).columns == ("miss@1", "miss@5", "miss@10", "miss@7")
    report = evaluate(EvalConfig(cache=cache_path, zero_shot=True, resamples=0))
    for figures in report["results"]["zero-shot"].values():
        assert [figures[f"miss@{cut}"] for cut in (1, 5, 10)] == pytest.approx(
            [1 - figures[f"R@{cut}"] for cut in (1, 5, 10)]
        )
    with pytest.raises(UsageError, match=r"also with a K, such as R@1: R, .*, nDCG, miss\.$"):
        EvalConfig(metrics=("hit",))


def test_what_can_be_reached_is_reported_of_rows_that_say_so(monkeypatch, cache_path):
    reachable = evaluate(EvalConfig(cache=cache_path, zero_shot=True, resamples=0))["protocol"]["best_reachable"]
    assert list(reachable["t2i"]) == ["R@1", "R@5", "R@10"]
    monkeypatch.setitem(METRICS, NEW, Metric(percentile_rank, better="lower", reachable=True))
    for protocol in ("split", "split-equal-texts"):
        config = EvalConfig(cache=cache_path, zero_shot=True, resamples=0, protocol=(protocol,))
        assert evaluate(config)["protocol"]["best_reachable"]["t2i"] == reachable["t2i"] | {NEW: 0.0}


def test_an_upper_bound_other_than_one_and_a_median_are_the_row_s(monkeypatch, cache_path):
    monkeypatch.setitem(METRICS, "double", Metric(lambda ranks: 2.0 / ranks.first, highest=2.0))
    monkeypatch.setitem(METRICS, "median_share", Metric(percentile_rank, better="lower", combine="median"))
    report = evaluate(EvalConfig(cache=cache_path, zero_shot=True, resamples=100))
    figures, intervals = report["results"]["zero-shot"]["t2i"], report["intervals"]["heads"]["zero-shot"]["t2i"]
    assert figures["double"] == pytest.approx(2 * figures["MRR"])
    assert intervals["double"] == pytest.approx([2 * end for end in intervals["MRR"]])
    gallery = report["protocol"]["t2i"]["gallery"]
    assert figures["median_share"] == pytest.approx((figures["median_rank"] - 1) / (gallery - 1))
    expected = [(end - 1) / (gallery - 1) for end in intervals["median_rank"]]
    assert intervals["median_share"] == pytest.approx(expected)


def test_a_name_without_a_row_is_an_error_and_no_other_metric():
    ranks = QueryRanks(np.array([2]), np.array([0, 1]), 5)
    for name in ("precision", "R@1"):
        with pytest.raises(ValueError, match="metric") as caught:
            values_of(name, ranks, k=(1,))
        assert str(caught.value) == (f"there is no metric '{name}'; expected one of: {', '.join(METRICS)}")
    with pytest.raises(ValueError, match="there is no metric 'precision'"):
        metric_of("precision@5")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unit": "km"}, "unit is 'km'; expected one of: %, rank"),
        ({"better": "up"}, "better is 'up'; expected one of: higher, lower"),
        ({"combine": "mode"}, "combine is 'mode'; expected one of: mean, median"),
    ],
)
def test_a_row_that_nothing_can_show_is_refused(settings, message):
    with pytest.raises(ValueError, match=r"; expected one of") as caught:
        Metric(percentile_rank, **settings)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "family", "cut"),
    [
        ("R@5", "R", 5),
        ("mAP_hits@10", "mAP_hits", 10),
        ("mAP@R", "mAP@R", None),
        ("R-Precision", "R-Precision", None),
        ("rsum", "R", None),
    ],
)
def test_a_full_name_has_a_row_and_perhaps_a_k(name, family, cut):
    assert (family_of(name), cut_of(name)) == (family, cut)


def test_what_follows_from_the_rows():
    assert with_k() == ("R", "mAP", "mAP_hits", "mAP_all", "recall", "nDCG")
    assert validation_metrics() == ("R", "mAP", "median_rank")
    assert {"mean_rank", "median_rank"} <= {name for name in METRICS if is_lower_better(name)}
    assert not any(map(is_lower_better, ("R", "mAP@R", "MRR", "rsum")))
    assert {name: scale_of(name) for name in ("R@5", "mAP@R", "median_rank", "rsum")} == {
        "R@5": 100,
        "mAP@R": 100,
        "median_rank": 1,
        "rsum": 1,
    }
    assert [heading_of(name) for name in ("mAP_hits@5", "mean_rank", "rsum")] == ["mAP_hits@5", "mean rank", "rsum"]


def test_the_table_needs_neither_torch_nor_numba():
    check = "import sys, clipret.metrics, clipret.retrieval.metrics; assert not {'torch', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)
