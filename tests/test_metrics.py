import numpy as np
import pytest

from clipret.metrics import map_at_k, median_rank, recall_at_k, rsum, summarise
from clipret.retrieval import Ranks


def random_ranks(seed):
    """One to seven matching items a query, at distinct random places of a small gallery."""
    generator = np.random.default_rng(seed)
    gallery = int(generator.integers(7, 30))
    queries = [
        np.sort(generator.choice(np.arange(1, gallery + 1), size=generator.integers(1, 8), replace=False))
        for _ in range(generator.integers(1, 25))
    ]
    offsets = np.cumsum([0, *(len(query) for query in queries)])
    return Ranks(np.concatenate(queries), offsets, gallery), queries


def naive_average_precision(ranks, k, divisor):
    found, total = 0, 0.0
    for place in range(1, k + 1):
        if place in ranks:
            found += 1
            total += found / place
    by = {"min": min(k, len(ranks)), "hits": max(found, 1), "all": len(ranks)}
    return total / by[divisor]


@pytest.mark.parametrize("k", [1, 3, 10, 1000])
@pytest.mark.parametrize("seed", range(20))
def test_metrics_equal_their_definitions_also_for_k_beyond_the_gallery(seed, k):
    ranks, queries = random_ranks(seed)
    assert recall_at_k(ranks, k=k) == pytest.approx(np.mean([min(query) <= k for query in queries]), abs=1e-12)
    for divisor in ("min", "hits", "all"):
        expected = np.mean([naive_average_precision(set(query), k, divisor) for query in queries])
        assert map_at_k(ranks, k=k, divisor=divisor) == pytest.approx(expected, abs=1e-12)
    assert median_rank(ranks) == np.median([min(query) for query in queries])


def test_a_perfect_ranking_scores_one_whatever_the_number_of_matching_items():
    ranks = Ranks(np.array([1, 1, 2, 3]), np.array([0, 1, 4]), gallery=5)
    assert summarise(ranks, k=(1, 2, 10)) == {
        "R@1": 1.0,
        "R@2": 1.0,
        "R@10": 1.0,
        "mAP@1": 1.0,
        "mAP@2": 1.0,
        "mAP@10": 1.0,
        "median_rank": 1.0,
    }


def test_rsum_adds_every_recall_of_both_directions():
    assert rsum({"t2i": {"R@1": 0.25, "mAP@1": 9.0}, "i2t": {"R@1": 0.5, "R@5": 0.75}}) == 1.5


def test_map_refuses_unknown_divisor():
    ranks, _ = random_ranks(0)
    with pytest.raises(ValueError, match="divisor is 'k'"):
        map_at_k(ranks, k=5, divisor="k")
