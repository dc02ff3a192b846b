import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipret.config.comparison import CompareConfig
from clipret.errors import UsageError
from clipret.evaluation.comparison.stage import compare
from clipret.retrieval.metrics import rsum, summarise
from clipret.retrieval.ranks_file import read_rankings, write_rankings
from clipret.statistics.flips import flip_tests
from clipret.statistics.intervals import Evidence, nested, tabulate
from clipret.statistics.significance import estimate, holm, intervals_of
from tests.helpers.ranked import best_ranks, described, joined, random_head, write_run

COUNTS = np.tile([1, 2, 3, 5], 12)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def head(seed, spread=20):
    return random_head(np.random.default_rng(seed), counts=COUNTS, spread=spread)


def make_run(name, ranked, **config):
    return write_run(Path(name), ranked, head(0), config=config)


def compared(*words, **settings):
    return compare(CompareConfig(runs=words, permutations=500, **settings))


def good(seed):
    """Better than the heads of head(): most ranks are among the first few."""
    return head(seed, spread=6)


def test_figures_intervals_and_p_values_are_those_of_the_parts():
    make_run("runs/a", good(1))
    make_run("runs/b", head(2), loss="infonce")
    result = compared("runs/a", "runs/b", metrics=("R@1", "mAP@5", "median_rank", "rsum"), k=(1, 5), seed=3)
    columns = (*((direction, name) for direction in (0, 1) for name in ("R@1", "mAP@5", "median_rank")), (None, "rsum"))
    tables = tabulate([good(1), head(2)], k=(1, 5), families=("R", "mAP", "median_rank"))
    evidence = Evidence(tables, columns, k=(1, 5))
    for place, (group, ranked) in enumerate(zip(result["groups"], (good(1), head(2)), strict=True)):
        figures = {direction: summarise(folds[0], k=(1, 5)) for direction, folds in ranked.items()}
        intervals = nested(intervals_of(estimate(evidence, (place,), level=0.95)), columns)
        for direction in ("t2i", "i2t"):
            assert list(group["values"][direction]) == ["R@1", "mAP@5", "median_rank"]
            for name, value in group["values"][direction].items():
                assert value == pytest.approx(figures[direction][name])
                assert group["intervals"][direction][name] == pytest.approx(intervals[direction][name])
        assert group["values"]["rsum"] == pytest.approx(rsum(figures, k=(1, 5)))
        assert group["intervals"]["rsum"] == pytest.approx(intervals["rsum"])
    (tested,) = flip_tests(evidence, [(0, 1)], flips=result["flips"], level=0.95, seed=3)
    assert [pair["p"] for pair in result["pairs"]] == tested.p.tolist()
    assert [pair["p_holm"] for pair in result["pairs"]] == holm(tested.p).tolist()
    assert [pair["interval"] for pair in result["pairs"]] == intervals_of(tested)
    assert [pair["interval"] is None for pair in result["pairs"]] == [name == "median_rank" for _, name in columns]
    assert [(pair["direction"], pair["metric"]) for pair in result["pairs"]] == [
        (None if direction is None else ("t2i", "i2t")[direction], name) for direction, name in columns
    ]


def test_the_result_says_what_was_compared_and_how():
    make_run("runs/a", good(1))
    make_run("runs/b", head(2), loss="infonce", seed=4)
    result = compared("runs/a", "runs/b", "zero-shot", metrics=("R",), k=(1, 5), level=0.9, alpha=0.01, seed=2)
    assert {name: result[name] for name in list(result)[4:]} == {
        "k": [1, 5],
        "level": 0.9,
        "alpha": 0.01,
        "family": 12,
        "flips": 12_000,
        "seed": 2,
        "remarks": [],
    }
    assert result["metrics"] == ["R@1", "R@5"]
    assert result["protocol"] == described(good(1))
    assert [(group["name"], group["label"], group["runs"], group["seeds"]) for group in result["groups"]] == [
        ("runs/a", "loss=margin", ["runs/a"], [0]),
        ("runs/b", "loss=infonce", ["runs/b"], [4]),
        ("zero-shot", "zero-shot", ["zero-shot"], []),
    ]
    assert {group["model"] for group in result["groups"]} == {"tiny"}
    assert [(pair["a"], pair["b"]) for pair in result["pairs"][::4]] == [
        ("runs/a", "runs/b"),
        ("runs/a", "zero-shot"),
        ("runs/b", "zero-shot"),
    ]
    json.dumps(result)


def test_verdicts_are_of_the_corrected_p_values_and_know_which_way_is_better():
    make_run("runs/a", good(1))
    make_run("runs/b", head(2), loss="infonce")
    result = compared("runs/b", "runs/a", "zero-shot", metrics=("R@5", "mean_rank"), k=(1,))
    verdicts = {(pair["a"], pair["b"], pair["metric"]): pair["verdict"] for pair in result["pairs"]}
    for metric in ("R@5", "mean_rank"):
        assert verdicts["runs/b", "runs/a", metric] == "B better"
        assert verdicts["runs/a", "zero-shot", metric] == "A better"
        assert verdicts["runs/b", "zero-shot", metric] == "no difference shown"
    for pair in result["pairs"]:
        assert (pair["verdict"] != "no difference shown") == (pair["p_holm"] <= 0.05)


def test_enough_flips_are_made_that_the_corrected_p_values_can_be_small():
    make_run("runs/a", good(1))
    result = compared("runs/a", "zero-shot", metrics=("R@1",), alpha=0.001)
    assert result["flips"] == 20_000


def test_more_flips_than_anybody_waits_for_are_refused():
    make_run("runs/a", good(1))
    with pytest.raises(UsageError) as caught:
        compared("runs/a", "zero-shot", metrics=("R@1",), alpha=1e-9)
    assert str(caught.value) == (
        "--alpha 1e-09 over 2 tests needs 20,000,000,000 flips, more than 10,000,000; give a larger --alpha, fewer "
        "--metrics, or fewer runs."
    )
    with pytest.raises(UsageError, match="needs inf flips"):
        compared("runs/a", "zero-shot", metrics=("R@1",), alpha=5e-324)


def test_seeds_are_averaged_and_their_spread_is_reported():
    for seed in (0, 1, 2):
        make_run(f"runs/{seed}", good(10 + seed), seed=seed)
    result = compared("runs/0", "runs/1", "runs/2", "zero-shot", metrics=("R@1", "rsum"), k=(1, 5))
    pooled, zero_shot = result["groups"]
    values = [summarise(good(10 + seed)["t2i"][0], k=(1,))["R@1"] for seed in (0, 1, 2)]
    assert (pooled["runs"], pooled["seeds"]) == (["runs/0", "runs/1", "runs/2"], [0, 1, 2])
    assert pooled["values"]["t2i"]["R@1"] == pytest.approx(np.mean(values))
    assert pooled["spread"]["t2i"]["R@1"] == pytest.approx(np.std(values, ddof=1))
    assert set(pooled["spread"]) == {"t2i", "i2t", "rsum"}
    assert zero_shot["spread"] is None
    assert result["flips"] is None
    assert all(0 < pair["p"] <= 1 for pair in result["pairs"])
    assert result["pairs"][-1]["verdict"] == "A better"


def test_pairs_of_single_heads_use_flips_even_if_other_pairs_have_seeds():
    make_run("runs/0", good(1), seed=0)
    make_run("runs/1", good(2), seed=1)
    make_run("runs/b", head(3), loss="infonce")
    both = compared("runs/0", "runs/1", "runs/b", "zero-shot", metrics=("R@1",))
    alone = compared("runs/b", "zero-shot", metrics=("R@1",))
    assert both["flips"] == 1200
    beside = [pair for pair in both["pairs"] if pair["a"] == "runs/b"]
    for one, other in zip(beside, alone["pairs"], strict=True):
        assert one["interval"] == pytest.approx(other["interval"], abs=0.02)
        assert one["p"] == pytest.approx(other["p"], abs=0.06)


def test_intervals_of_seeds_stay_within_what_a_metric_can_be():
    images = np.arange(30)
    for seed, wrong in enumerate((0, 15)):
        ranks = np.where(images < wrong, 3, 1)
        ranked = {direction: (best_ranks(ranks, images=images),) for direction in ("t2i", "i2t")}
        write_run(Path(f"runs/{seed}"), ranked, ranked, config={"seed": seed})
    ranked = {direction: (best_ranks(np.full(30, 2), images=images),) for direction in ("t2i", "i2t")}
    write_run(Path("runs/b"), ranked, ranked, config={"lr": 1e-3})
    result = compared("runs/0", "runs/1", "runs/b", metrics=("R@1", "mean_rank", "rsum"), k=(1,))
    intervals = result["groups"][0]["intervals"]
    assert 0 <= intervals["t2i"]["R@1"][0] < 0.1 < 0.99 < intervals["t2i"]["R@1"][1] <= 1.0
    assert 0 <= intervals["rsum"][0] < 0.2 < 1.98 < intervals["rsum"][1] <= 2.0
    assert intervals["t2i"]["mean_rank"] is None
    assert result["pairs"][0]["interval"] == [-1.0, 1.0]


def test_what_has_no_test_is_in_no_family_and_no_verdict():
    """A median rank over several seeds."""
    for seed in (0, 1):
        make_run(f"runs/{seed}", good(10 + seed), seed=seed)
    result = compared("runs/0", "runs/1", "zero-shot", metrics=("R@1", "median_rank"), k=(1,))
    recall, median = result["pairs"][:2]
    assert result["family"] == 2
    assert {name: median[name] for name in ("interval", "p", "p_holm", "verdict")} == {
        "interval": None,
        "p": None,
        "p_holm": None,
        "verdict": "no test",
    }
    assert result["groups"][0]["intervals"]["t2i"]["median_rank"] is None
    pair = [recall["p"], result["pairs"][2]["p"]]
    assert recall["p_holm"] == pytest.approx(holm(np.array(pair))[0])
    json.dumps(result, allow_nan=False)


def test_a_single_run_is_assumed_to_vary_over_seeds_as_the_other_group_does_and_zero_shot_is_not():
    """The group's seeds differ; a run as far from their mean as they are is not significantly different."""
    images = np.arange(60)

    def right(number):
        ranks = best_ranks(np.where(images < number, 1, 2), images=images)
        return dict.fromkeys(("t2i", "i2t"), (ranks,))

    for seed, number in enumerate((26, 30, 34)):
        write_run(Path(f"runs/{seed}"), right(number), right(10), config={"seed": seed})
    write_run(Path("runs/b"), right(10), right(10), config={"loss": "infonce"})
    result = compared("runs/0", "runs/1", "runs/2", "runs/b", "zero-shot", metrics=("R@1",), k=(1,))
    single, zero_shot = (pair for pair in result["pairs"] if pair["a"] == "runs/0" and pair["direction"] == "t2i")
    assert (single["b"], zero_shot["b"]) == ("runs/b", "zero-shot")
    # Equal up to rounding that depends on the processor.
    assert single["difference"] == pytest.approx(zero_shot["difference"])
    assert single["p"] > zero_shot["p"]
    assert single["interval"][0] < zero_shot["interval"][0]


def test_intervals_leave_0_out_where_p_says_so():
    for seed in (0, 1):
        make_run(f"runs/{seed}", good(10 + seed), seed=seed)
    make_run("runs/a", good(1), lr=1e-3)
    make_run("runs/b", head(2), loss="infonce")
    result = compared("runs/0", "runs/1", "runs/a", "runs/b", "zero-shot", metrics=("R", "MRR", "rsum"))
    assert {pair["p"] <= 0.05 for pair in result["pairs"]} == {True, False}
    for pair in result["pairs"]:
        low, high = pair["interval"]
        assert (low > 0 or high < 0) == (pair["p"] <= 0.05), pair


def test_several_galleries_are_averaged():
    folds = joined(good(1), good(2))
    description = described(folds)
    zero_shot = joined(head(3), head(4))
    write_run(Path("runs/a"), folds, zero_shot, description=description)
    result = compared("runs/a", "zero-shot", metrics=("R@1",))
    values = [summarise(fold, k=(1,))["R@1"] for fold in folds["t2i"]]
    assert result["groups"][0]["values"]["t2i"]["R@1"] == pytest.approx(np.mean(values))
    assert result["pairs"][0]["p"] <= 0.05


def test_the_seed_decides_the_result():
    make_run("runs/a", head(1))
    first, again, other = (compared("runs/a", "zero-shot", seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first["pairs"][0]["interval"] != other["pairs"][0]["interval"]


def test_a_run_that_was_unfinished_is_compared_with_a_remark():
    make_run("runs/a", good(1))
    path = Path("runs/a/ranks.safetensors")
    rankings = read_rankings(path)
    write_rankings(path, replace(rankings, trained=replace(rankings.trained, finished=False)))
    result = compared("runs/a", "zero-shot", metrics=("R@1",))
    assert result["remarks"] == ["runs/a was unfinished when it was measured"]


def test_runs_that_saw_the_images_are_compared_with_a_remark():
    write_run(
        Path("runs/a"), good(1), head(0), leakage={"checked": True, "trained_on": 1200, "images": 1300},
        description=described(good(1), remarks=["12 images where the protocol has 13"]),
    )  # fmt: skip
    write_run(
        Path("runs/b"), head(2), head(0), leakage={"checked": False, "trained_on": None, "images": 1300},
        config={"lr": 1e-3},
    )  # fmt: skip
    assert compared("runs/a", "runs/b", "zero-shot", metrics=("R@1",))["remarks"] == [
        "LEAK: runs/a was trained on 1,200 of these 1,300 images",
        "whether runs/b was trained on these images was not checked",
        "not comparable with published figures: 12 images where the protocol has 13",
    ]


def test_progress_of_flips_is_reported():
    make_run("runs/a", good(1))
    steps = []
    config = CompareConfig(runs=("runs/a", "zero-shot"), permutations=5000)
    compare(config, on_progress=steps.append)
    assert [(step.phase, step.done, step.total) for step in steps] == [("flips", 5000, 5000)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"runs": ()},
            "nothing was given; name two runs or more to compare, or a run and one of zero-shot, closed-form.",
        ),
        (
            {"runs": ("a",)},
            "only `a` was given; name two runs or more to compare, or a run and one of zero-shot, closed-form.",
        ),
        ({"k": ()}, "--k is nothing; expected whole numbers from 1 to 1,000,000,000, such as 1,5,10."),
        ({"k": (0, 1)}, "--k is 0,1; expected whole numbers from 1 to 1,000,000,000, such as 1,5,10."),
        ({"metrics": ()}, "--metrics is nothing; expected names, such as R@1,R@10,rsum."),
        *(
            (
                {"metrics": ("R", word)},
                f"--metrics has '{word}'; expected some of: R, mAP, mAP_hits, mAP_all, recall, nDCG, MRR, R-Precision, "
                f"mAP@R, mean_rank, median_rank, rsum; also with a K, such as R@1: R, mAP, mAP_hits, mAP_all, recall, "
                f"nDCG.",
            )
            for word in ("r", "R@0", "R@x", "R@", "MRR@5", "@5", "rsum@1", "R@²")
        ),
        ({"permutations": 1}, "--permutations is 1; expected a value from 100 to 10,000,000."),
        ({"seed": -1}, "--seed is -1; expected a value from 0 to 9,223,372,036,854,775,807."),
        ({"level": 1.0}, "--level is 1.0; expected a value between 0 and 1."),
        ({"alpha": 0.0}, "--alpha is 0.0; expected a value between 0 and 1."),
        ({"format": "pdf"}, "--format is 'pdf'; expected one of: table, markdown, latex, csv, html, json."),
        (
            {"out": "a.md", "format": "table"},
            "--format table is for a terminal; for --out take one of: markdown, latex, csv, html, json.",
        ),
        (
            {"out": "a.txt"},
            "--out is 'a.txt', whose suffix is of no format; expected .md, .tex, .csv, .html, .json, or --format.",
        ),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UsageError) as caught:
        CompareConfig(**{"runs": ("a", "b"), **settings})
    assert str(caught.value) == message


def test_an_unknown_protocol_is_refused():
    with pytest.raises(UsageError, match=r"^--protocol is 'x'; expected one of: split, "):
        CompareConfig(runs=("a", "b"), protocol="x")


def test_metrics_are_written_out():
    config = CompareConfig(runs=("a", "b"), metrics=("mAP@R", "R", "R@5", "nDCG@3", "rsum"), k=(10, 5))
    assert config.columns == ("mAP@R", "R@5", "R@10", "nDCG@3", "rsum")
    assert config.families == ("R", "nDCG", "mAP@R")
    assert config.cuts == (3, 5, 10)
    assert CompareConfig(runs=("a", "b"), metrics=("rsum",)).families == ("R",)


@pytest.mark.parametrize(
    ("out", "asked", "format"),
    [
        (None, None, "table"),
        ("a.md", None, "markdown"),
        ("a.TEX", None, "latex"),
        ("a.csv", None, "csv"),
        ("a.json", None, "json"),
        ("a.txt", "csv", "csv"),
        (None, "latex", "latex"),
    ],
)
def test_the_format_is_that_of_the_suffix_unless_it_is_given(out, asked, format):
    assert CompareConfig(runs=("a", "b"), out=out, format=asked).format == format


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("runs/a", "runs/b"), []),
        (("runs/a@nnn", "runs/b@nnn"), ["all by nnn, which no figure by cosine is comparable with"]),
        (
            ("runs/a@nnn", "runs/a", "runs/b"),
            ["scored in different ways: runs/a@nnn by nnn; runs/a, runs/b by cosine"],
        ),
        (("zero-shot@nnn", "runs/a"), ["scored in different ways: zero-shot@nnn by nnn; runs/a by cosine"]),
    ],
)
def test_figures_of_different_scorings_are_never_compared_silently(words, said):
    for name, seed in (("runs/a", 1), ("runs/b", 2)):
        between = {"zero-shot nnn": head(seed + 10), "trained nnn": good(seed)}
        write_run(Path(name), head(seed), head(0), between=between, config={"lr": seed * 1e-4})
    result = compared(*words, metrics=("R@1",))
    assert [remark for remark in result["remarks"] if "cosine" in remark] == said
    expected = {"runs/a": head(1), "runs/b": head(2), "runs/a@nnn": good(1), "runs/b@nnn": good(2)}
    expected["zero-shot@nnn"] = head(11)
    for group in result["groups"]:
        ranks = expected[group["name"]]["t2i"][0]
        assert group["values"]["t2i"]["R@1"] == pytest.approx(np.mean(ranks.first == 1))
