"""Every metric against an implementation that knows nothing of ours: ranx, or a loop over a ranking.

What they get is not our ranks but the rankings themselves, sorted here.
"""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from clipret.metrics import METRICS, metric_of, with_k
from clipret.retrieval.engine import Matches, rank
from clipret.retrieval.metrics import per_query, rsum, summarise
from clipret.retrieval.ranks import Ranks
from tests.helpers import HELPERS

CASES = 200
# Within the galleries, as large as some of them, and beyond them all.
CUTS = (1, 3, 10, 1000)
# What ranx calls our metrics.
THEIRS = {
    "R": "hit_rate",
    "mAP_all": "map",
    "recall": "recall",
    "nDCG": "ndcg",
    "MRR": "mrr",
    "R-Precision": "r-precision",
}


def make_case(seed):
    """One or more images and captions of which many tie, and matches at random.

    Returns our Ranks by direction, and by direction the rankings: of each query, whether its items match, best first.
    """
    generator = np.random.default_rng(seed)
    images, captions = (1, 1) if seed == 0 else (int(generator.integers(1, most)) for most in (9, 25))
    # Their products are -1, -1/2, 0, 1/2 or 1, exactly.
    sides = [
        torch.tensor(generator.choice([-0.5, 0.5], size=(count, 4)), dtype=torch.float32)
        for count in (images, captions)
    ]
    scores = {"t2i": (sides[1] @ sides[0].T).numpy(), "i2t": (sides[0] @ sides[1].T).numpy()}
    pairs, rankings = {}, {}
    for direction, matrix in scores.items():
        asking, gallery = matrix.shape
        matching = generator.random((asking, gallery)) < generator.uniform(0.05, 0.9)
        # Some queries have no match, but never all.
        matching[0, generator.integers(gallery)] = True
        pairs[direction] = np.nonzero(matching)
        # Matching items come last among ties.
        orders = [
            sorted(range(gallery), key=lambda item: (-row[item], own[item]))
            for row, own in zip(matrix, matching, strict=True)
        ]
        rankings[direction] = [own[order].tolist() for own, order in zip(matching, orders, strict=True) if own.any()]
    matches = Matches.of(np.zeros(captions, dtype=np.int64), images=images, matches=pairs)
    return rank(*sides, matches=matches), rankings


@pytest.fixture(scope="module")
def cases():
    """(our Ranks, rankings) of both directions of all cases."""
    both = [make_case(seed) for seed in range(CASES)]
    return [(ranks[direction], rankings[direction]) for ranks, rankings in both for direction in ("t2i", "i2t")]


@pytest.fixture(scope="module")
def theirs(cases):
    """ranx's name of a metric -> its values of all queries of all cases, one after another."""
    rankings = [ranking for _, of_case in cases for ranking in of_case]
    names = {query: f"{query:06}" for query in range(len(rankings))}
    qrels = {
        names[query]: {str(item): 1 for item, own in enumerate(ranking) if own}
        for query, ranking in enumerate(rankings)
    }
    run = {
        names[query]: {str(item): float(len(ranking) - item) for item in range(len(ranking))}
        for query, ranking in enumerate(rankings)
    }
    asked = [f"{THEIRS[name]}@{cut}" for name in THEIRS if name in with_k() for cut in CUTS]
    asked += ["map", *(THEIRS[name] for name in THEIRS if name not in with_k())]
    done = subprocess.run(
        [sys.executable, HELPERS / "child_ranx.py"],
        input=json.dumps([qrels, run, asked]),
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: np.array(values) for name, values in json.loads(done.stdout).items()}


def ours(cases, name, **settings):
    return np.concatenate([per_query(ranks, **settings)[name] for ranks, _ in cases])


def naive(ranking, name, cut=None):
    """A metric of one ranking, by its definition."""
    matching = sum(ranking)
    within = matching if name == "mAP@R" else cut
    hits, total, first = 0, 0.0, None
    for place, own in enumerate(ranking, start=1):
        if own:
            first = first or place
        if own and (within is None or place <= within):
            hits += 1
            total += hits / place
    divisors = {"mAP": lambda: min(cut, matching), "mAP_hits": lambda: max(hits, 1), "mAP@R": lambda: matching}
    return first if name in ("mean_rank", "median_rank") else total / divisors[name]()


def test_the_cases_have_uneven_positives_single_queries_and_galleries_of_every_size(cases):
    queries = [ranking for _, rankings in cases for ranking in rankings]
    assert len({sum(ranking) for ranking in queries}) > 10
    assert {len(ranking) for ranking in queries} > {1, 2, 3, 10, 20}
    assert any(len(rankings) == 1 for _, rankings in cases)


def test_ties_count_against_us_in_the_ranks_that_are_measured():
    one = np.zeros(1, dtype=np.int64)
    matches = Matches.of(np.zeros(2, dtype=np.int64), images=1, matches={"t2i": (one, one), "i2t": (one, one)})
    ranks = rank(torch.ones(1, 1), torch.ones(2, 1), matches=matches)
    assert summarise(ranks["i2t"], k=(1, 2), families=("R", "MRR")) == {"R@1": 0, "R@2": 1, "MRR": 0.5}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", ["R", "mAP_all", "recall", "nDCG"])
@pytest.mark.ci
def test_metrics_with_a_k_equal_those_of_ranx(cases, theirs, name, cut):
    values = ours(cases, f"{name}@{cut}", k=(cut,), families=(name,))
    np.testing.assert_allclose(values, theirs[f"{THEIRS[name]}@{cut}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["MRR", "R-Precision"])
@pytest.mark.ci
def test_metrics_without_a_k_equal_those_of_ranx(cases, theirs, name):
    np.testing.assert_allclose(ours(cases, name, families=(name,)), theirs[THEIRS[name]], rtol=0, atol=1e-12)


@pytest.mark.ci
def test_at_full_length_both_map_and_map_all_are_average_precision(cases, theirs):
    for name in ("mAP", "mAP_all", "mAP_hits"):
        values = ours(cases, f"{name}@1000", k=(1000,), families=(name,))
        np.testing.assert_allclose(values, theirs["map"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", ["mAP", "mAP_hits"])
def test_map_at_k_by_our_divisors_equals_a_loop(cases, name, cut):
    expected = [naive(ranking, name, cut) for _, rankings in cases for ranking in rankings]
    values = ours(cases, f"{name}@{cut}", k=(cut,), families=(name,))
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mAP@R", "mean_rank", "median_rank"])
def test_map_at_r_and_the_best_rank_equal_a_loop(cases, name):
    expected = [naive(ranking, name) for _, rankings in cases for ranking in rankings]
    np.testing.assert_allclose(ours(cases, name, families=(name,)), expected, rtol=0, atol=1e-12)


def test_a_summary_is_the_mean_over_queries_and_of_the_median_rank_their_median(cases):
    for ranks, rankings in cases:
        single, summary = per_query(ranks, k=CUTS), summarise(ranks, k=CUTS)
        assert list(summary) == list(single)
        for name, values in single.items():
            assert values.shape == (len(rankings),)
            assert values.dtype == np.float64
            ordered = sorted(values.tolist())
            middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
            expected = middle if name == "median_rank" else math.fsum(ordered) / len(ordered)
            assert summary[name] == pytest.approx(expected, abs=1e-12)


def test_no_metric_leaves_its_range(cases):
    for ranks, _ in cases:
        for name, values in per_query(ranks, k=CUTS).items():
            metric = metric_of(name)
            assert metric.lowest <= values.min()
            assert values.max() <= min(metric.highest, ranks.gallery) + 1e-12


def test_a_perfect_ranking_scores_one_but_for_what_a_small_k_cannot_hold():
    ranks = Ranks(np.array([1, 1, 2, 3]), np.array([0, 1, 4]), gallery=5)
    summary = summarise(ranks, k=(1, 2, 10))
    # The second query has three matching items, of which one and two are among the first one and two.
    assert {name: value for name, value in summary.items() if value != pytest.approx(1)} == pytest.approx(
        {"mAP_all@1": 2 / 3, "mAP_all@2": 5 / 6, "recall@1": 2 / 3, "recall@2": 5 / 6}
    )


def test_names_come_family_by_family_in_the_families_own_order():
    ranks = Ranks(np.array([2]), np.array([0, 1]), gallery=5)
    assert list(per_query(ranks, k=(5, 1), families=("median_rank", "MRR", "mAP", "R"))) == [
        "R@5",
        "R@1",
        "mAP@5",
        "mAP@1",
        "MRR",
        "median_rank",
    ]
    assert list(per_query(ranks, k=(3,))) == [
        *(f"{name}@3" for name in with_k()),
        *(name for name in METRICS if name not in with_k()),
    ]


def test_without_a_k_there_are_the_metrics_that_need_none():
    ranks = Ranks(np.array([2]), np.array([0, 1]), gallery=5)
    assert summarise(ranks, k=(), families=("R", "MRR")) == {"MRR": 0.5}
    assert summarise(ranks, families=()) == {}


def test_without_queries_there_are_no_values():
    ranks = Ranks(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64), gallery=5)
    assert {name: values.shape for name, values in per_query(ranks, k=(1,)).items()} == dict.fromkeys(
        [f"{name}@1" if name in with_k() else name for name in METRICS], (0,)
    )


def test_an_unknown_metric_is_refused():
    ranks = Ranks(np.array([2]), np.array([0, 1]), gallery=5)
    with pytest.raises(ValueError, match="metric") as caught:
        per_query(ranks, families=("R", "precision"))
    assert str(caught.value) == (
        "there is no metric 'precision'; expected one of: R, mAP, mAP_hits, mAP_all, recall, nDCG, MRR, R-Precision, "
        "mAP@R, mean_rank, median_rank"
    )


def test_rsum_adds_recall_at_its_k_in_both_directions():
    directions = {
        "t2i": {"R@1": 0.25, "R@2": 9.0, "R@5": 0.5, "mAP@1": 9.0},
        "i2t": {"R@1": 0.5, "R@2": 9.0, "R@5": 0.75, "recall@1": 9.0},
    }
    assert rsum(directions, k=(1, 5)) == 2.0
    assert rsum(directions, k=()) == 0
    with pytest.raises(KeyError, match="R@10"):
        rsum(directions)
