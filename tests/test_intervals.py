import tracemalloc

import numpy as np
import pytest
from ranked import best_ranks, joined, random_head, ranking

from clipret import intervals
from clipret.config import METRICS
from clipret.intervals import bootstrap_intervals, resample, tabulate, weighted_medians
from clipret.metrics import per_query

K = (1, 3)


def two_folds(seed):
    """Images with 0 to 7 captions, in two galleries of different sizes."""
    generator = np.random.default_rng(seed)
    sizes = (17, 9)
    return joined(*(random_head(generator, counts=generator.integers(0, 8, size)) for size in sizes))


def naive_draws(head, *, resamples, seed):
    """Every draw's metrics, by repeating the queries of the images that were drawn."""
    draws = []
    for fold in range(2):
        asking = np.unique(np.concatenate([head[way][fold].images for way in ("t2i", "i2t")]))
        generator = np.random.default_rng((seed, fold))
        found = []
        for drawn in generator.integers(0, len(asking), size=(resamples, len(asking))):
            metrics = {}
            for way in ("t2i", "i2t"):
                images = head[way][fold].images
                queries = [query for image in asking[drawn] for query in np.flatnonzero(images == image)]
                for name, values in per_query(head[way][fold].ranks, k=K).items():
                    metrics[way, name] = np.median(values[queries]) if name == "median_rank" else values[queries].mean()
            found.append(metrics)
        draws.append(found)
    return [{name: (first[name] + second[name]) / 2 for name in first} for first, second in zip(*draws, strict=True)]


def test_intervals_are_those_of_repeated_queries():
    head = two_folds(0)
    found = bootstrap_intervals(head, k=K, resamples=60, level=0.8, seed=5)
    draws = naive_draws(head, resamples=60, seed=5)
    for way, name in draws[0]:
        expected = np.quantile([draw[way, name] for draw in draws], [0.1, 0.9])
        assert found[way][name] == pytest.approx(expected, abs=1e-12), (way, name)
    rsums = [sum(draw[way, f"R@{cut}"] for way in ("t2i", "i2t") for cut in K) for draw in draws]
    assert found["rsum"] == pytest.approx(np.quantile(rsums, [0.1, 0.9]), abs=1e-12)
    assert set(found["t2i"]) == set(per_query(head["t2i"][0].ranks, k=K))


def test_families_and_rsum_are_those_asked_for():
    found = bootstrap_intervals(two_folds(0), k=(1,), families=("mAP", "median_rank"), resamples=10)
    assert {name: list(values) for name, values in found.items()} == {
        "t2i": ["mAP@1", "median_rank"],
        "i2t": ["mAP@1", "median_rank"],
    }


@pytest.mark.parametrize("held", [1, 40, 300])
def test_the_block_size_decides_nothing(held, monkeypatch):
    tables = tabulate([two_folds(1)], k=K, families=METRICS)
    expected = resample(tables, resamples=50, seed=0)
    monkeypatch.setattr(intervals, "_HELD_WEIGHTS", held)
    assert resample(tables, resamples=50, seed=0) == pytest.approx(expected, abs=1e-12)


def test_the_seed_decides_the_intervals():
    head = two_folds(2)
    first, again, other = (bootstrap_intervals(head, k=K, resamples=50, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_heads_are_resampled_on_the_same_images():
    """Two heads, of which one is right exactly where the other is wrong, always add up to one."""
    generator = np.random.default_rng(0)
    right = generator.integers(0, 2, 30)
    heads = [
        {way: (best_ranks(1 + hits, images=np.arange(30)),) for way in ("t2i", "i2t")} for hits in (right, 1 - right)
    ]
    draws = resample(tabulate(heads, k=(1,), families=("R",)), resamples=50, seed=0)
    assert draws.sum(1) == pytest.approx(1.0)
    assert draws[:, 0].std() > 0


def test_one_draw_resamples_both_directions():
    right = np.random.default_rng(0).integers(0, 2, 30)
    opposite = {"t2i": (best_ranks(1 + right, images=range(30)),), "i2t": (best_ranks(2 - right, images=range(30)),)}
    found = bootstrap_intervals(opposite, k=(1,), resamples=50)
    assert found["rsum"] == pytest.approx([1.0, 1.0])
    assert found["t2i"]["R@1"][0] < found["t2i"]["R@1"][1]


def test_images_that_ask_nothing_are_not_drawn():
    head = two_folds(3)
    apart = {way: tuple(type(fold)(fold.ranks, 10 * fold.images + 7) for fold in folds) for way, folds in head.items()}
    assert bootstrap_intervals(apart, k=K, resamples=50) == bootstrap_intervals(head, k=K, resamples=50)


def test_a_draw_without_a_query_of_a_direction_says_nothing_of_it():
    head = {"t2i": (ranking([2], images=[0]),), "i2t": (ranking([1, 1, 1], images=[0, 1, 2]),)}
    found = bootstrap_intervals(head, k=(1, 2), resamples=100)
    assert found["t2i"]["R@2"] == [1.0, 1.0]
    assert found["t2i"]["median_rank"] == [2.0, 2.0]


def test_what_is_always_right_has_no_width():
    perfect = {way: (best_ranks([1] * 20, images=range(20)),) for way in ("t2i", "i2t")}
    assert bootstrap_intervals(perfect, k=(1,), families=("R",), resamples=50) == {
        "t2i": {"R@1": [1.0, 1.0]},
        "i2t": {"R@1": [1.0, 1.0]},
        "rsum": [2.0, 2.0],
    }


@pytest.mark.parametrize("seed", range(10))
def test_weighted_medians_equal_those_of_repeated_values(seed):
    generator = np.random.default_rng(seed)
    images, queries = int(generator.integers(1, 300)), int(generator.integers(1, 500))
    values, owners = generator.integers(1, 1000, queries), generator.integers(0, images, queries)
    # The weights of some rows lie at one end of the values, far from the median of all.
    weights = generator.integers(0, 4, size=(12, images))
    lowest = np.full(images, 1000)
    np.minimum.at(lowest, owners, values)
    weights[:3, lowest > 100] = 0
    weights[3:6, lowest < 900] = 0
    found = weighted_medians(weights.astype(float), values, owners=owners)
    for row, median in zip(weights, found, strict=True):
        repeated = np.repeat(values, row[owners])
        assert (np.isnan(median) and not len(repeated)) or median == np.median(repeated)


def test_memory_does_not_grow_with_the_images_times_the_draws():
    images = np.arange(40_000)
    ranks = np.random.default_rng(0).integers(1, 50, len(images))
    head = {way: (best_ranks(ranks, images=images),) for way in ("t2i", "i2t")}
    tracemalloc.start()
    bootstrap_intervals(head, k=(1,), families=("R", "median_rank"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # All weights at once would be 320 MB.
    assert peak < 200e6


def coverage(*, clustered, datasets=400):
    """How often the interval of R@1 holds the true value, where captions of an image are hit or missed together."""
    generator, covered = np.random.default_rng(0), 0
    images, truth = 150, 0.6
    for seed in range(datasets):
        counts = generator.integers(1, 8, images)
        owners = np.repeat(np.arange(images), counts)
        # Beta(0.6, 0.4): most images have nearly all of their captions hit, or nearly none. Its mean is the truth.
        chances = generator.beta(0.6, 0.4, images)
        ranks = np.where(generator.random(len(owners)) < chances[owners], 1, 2)
        asked_by = owners if clustered else np.arange(len(owners))
        head = {"t2i": (best_ranks(ranks, images=asked_by),), "i2t": (best_ranks([1] * images, images=range(images)),)}
        low, high = bootstrap_intervals(head, k=(1,), families=("R",), resamples=400, seed=seed)["t2i"]["R@1"]
        covered += low <= truth <= high
    return covered / datasets


def test_the_interval_covers_the_true_value_as_often_as_it_says():
    assert 0.93 <= coverage(clustered=True) <= 0.97


def test_drawing_captions_one_by_one_would_cover_too_little():
    assert coverage(clustered=False) < 0.8
