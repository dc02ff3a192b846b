from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from clipret.config import METRICS
from clipret.retrieval.metrics import per_query
from clipret.statistics.intervals import (
    Evidence,
    all_columns,
    effective_images,
    median_interval,
    nested,
    proportion_interval,
    tabulate,
    weighted_medians,
)
from tests.helpers.ranked import best_ranks, joined, random_head

K = (1, 3)
LEVEL = 0.95


def two_folds(seed):
    """Images with 0 to 7 captions, in two galleries of different sizes."""
    generator = np.random.default_rng(seed)
    sizes = (17, 9)
    return joined(*(random_head(generator, counts=generator.integers(0, 8, size)) for size in sizes))


def evidence_of(*heads, names=("R@1", "R@3", "MRR", "rsum"), k=K):
    families = tuple(name for name in METRICS if any(word.partition("@")[0] in (name, "rsum") for word in names))
    return Evidence(tabulate(list(heads), k=k, families=families), all_columns(names), k=k)


def alike(ranks, *, images):
    """A head that has the same ranks in both directions."""
    return {direction: (best_ranks(ranks, images=images),) for direction in ("t2i", "i2t")}


def naive_parts(head, fold, direction, name):
    """The contribution of each image of a fold to a metric: sums over its queries, and their counts."""
    asking = np.unique(np.concatenate([head[direction][fold].images for direction in ("t2i", "i2t")]))
    images, values = head[direction][fold].images, per_query(head[direction][fold], k=K)[name]
    sums = np.array([values[images == image].sum() for image in asking])
    return sums, np.array([(images == image).sum() for image in asking])


def test_shares_of_images_add_up_to_the_figures():
    evidence = evidence_of(two_folds(0), two_folds(0))
    mixture = np.array([2.0, -0.5])
    assert evidence.shares(mixture).shape == (evidence.images, len(evidence.columns))
    assert evidence.shares(mixture).sum(0) == pytest.approx(mixture @ evidence.points)
    assert evidence.weights.sum(0) == pytest.approx(np.ones(len(evidence.columns)))
    assert evidence.limits.tolist() == [1.0] * 6 + [4.0]


def test_the_variance_is_that_of_ratios_over_images_in_each_fold():
    head = two_folds(0)
    expected = {}
    for fold in (0, 1):
        around = {}
        for direction in ("t2i", "i2t"):
            for name in ("R@1", "R@3", "MRR"):
                sums, counts = naive_parts(head, fold, direction, name)
                # Two folds, each with half of the weight.
                around[direction, name] = (sums - sums.sum() / counts.sum() * counts) / counts.sum() / 2
        around[None, "rsum"] = sum(around[direction, f"R@{cut}"] for direction in ("t2i", "i2t") for cut in K)
        for column, parts in around.items():
            expected[column] = expected.get(column, 0) + (parts**2).sum() * len(parts) / (len(parts) - 1)
    evidence = evidence_of(head)
    variances = nested(evidence.variance(np.ones(1)), evidence.columns)
    for (direction, name), variance in expected.items():
        measured = (variances if direction is None else variances[direction])[name]
        assert measured == pytest.approx(variance), (direction, name)


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize(("right", "asked"), [(0, 30), (1, 30), (3, 100), (15, 30), (29, 30), (30, 30), (1, 1)])
def test_the_interval_of_whole_numbers_is_the_mid_p_of_the_binomial(right, asked, level):
    """At either end the probability of more extreme values plus half of the observed one is the tail."""
    (low,), (high,) = proportion_interval(np.array([right / asked]), np.array([float(asked)]), level=level)
    tail = (1 - level) / 2
    if right:
        assert binom.sf(right, asked, low) + binom.pmf(right, asked, low) / 2 == pytest.approx(tail)
    else:
        assert low == 0.0
    if right < asked:
        assert binom.cdf(right - 1, asked, high) + binom.pmf(right, asked, high) / 2 == pytest.approx(tail)
    else:
        assert high == 1.0
    assert 0 <= low < right / asked + 1e-12
    assert right / asked - 1e-12 < high <= 1


def test_what_is_always_right_has_an_interval_that_more_images_make_narrower():
    """None of n wrong: the mid-P interval starts where half of the probability of that is the tail."""
    for images, low in ((20, 0.05 ** (1 / 20)), (376, 0.05 ** (1 / 376))):
        evidence = evidence_of(alike([1] * images, images=range(images)), names=("R@1", "MRR", "rsum"), k=(1,))
        sizes = effective_images(evidence, np.ones(1))
        assert sizes == pytest.approx(np.full(5, float(images)))
        ends = proportion_interval(np.ones(5), sizes, level=LEVEL)
        assert ends[0] == pytest.approx(np.full(5, low))
        assert ends[1].tolist() == [1.0] * 5


def test_captions_that_are_hit_together_count_as_one_and_others_by_themselves():
    generator, images = np.random.default_rng(0), 400
    right = generator.integers(0, 2, images)
    owners = np.repeat(np.arange(images), 5)
    sizes = {}
    for name, hits in (("together", right[owners]), ("apart", generator.integers(0, 2, 5 * images))):
        evidence = evidence_of(alike(2 - hits, images=owners), names=("R@1",), k=(1,))
        sizes[name] = effective_images(evidence, np.ones(1))[0]
    assert sizes["together"] == pytest.approx(images, rel=0.02)
    assert sizes["apart"] == pytest.approx(5 * images, rel=0.15)


def test_images_without_queries_have_no_effect():
    head = two_folds(3)
    apart = {
        direction: tuple(replace(fold, images=10 * fold.images + 7) for fold in folds)
        for direction, folds in head.items()
    }
    first, second = (effective_images(evidence_of(other), np.ones(1)).tolist() for other in (head, apart))
    assert first == second


def test_the_median_of_queries_that_are_independent_has_the_binomial_s_order_statistics():
    """Of 100 different ranks the interval of 1/2 is 0.404 to 0.596: the 41st to the 60th."""
    ranks = np.random.default_rng(0).permutation(np.arange(1, 101))
    evidence = evidence_of(alike(ranks, images=range(100)), names=("median_rank",))
    assert evidence.points.tolist() == [[50.5, 50.5]]
    assert median_interval(evidence, 0, column=0, level=LEVEL) == (41, 60)


def test_the_median_of_captions_that_are_alike_is_as_uncertain_as_that_of_their_images():
    ranks = np.random.default_rng(0).permutation(np.arange(1, 101))
    evidence = evidence_of(alike(ranks.repeat(5), images=np.arange(100).repeat(5)), names=("median_rank",))
    assert median_interval(evidence, 0, column=0, level=LEVEL) == (41, 60)


@pytest.mark.parametrize(("images", "has_one"), [(1, False), (5, False), (7, True)])
def test_the_median_of_very_few_images_has_no_interval(images, has_one):
    """With five, all lie on one side of it with probability 1/16."""
    evidence = evidence_of(alike(np.arange(1, images + 1), images=range(images)), names=("median_rank",))
    assert np.isnan(median_interval(evidence, 0, column=0, level=LEVEL)).tolist() == [not has_one] * 2


def test_the_median_over_folds_has_the_interval_of_their_mean():
    ranks = np.arange(1, 101)
    folds = joined(*(alike(start + ranks, images=range(100)) for start in (0, 1000)))
    evidence = evidence_of(folds, names=("median_rank",))
    assert evidence.points[0, 0] == 550.5
    ends = median_interval(evidence, 0, column=0, level=LEVEL)
    assert ends == pytest.approx((550.5 - 9.5 / np.sqrt(2), 550.5 + 9.5 / np.sqrt(2)))


@pytest.mark.parametrize("seed", range(10))
def test_weighted_medians_equal_those_of_repeated_values(seed):
    generator = np.random.default_rng(seed)
    images, queries = int(generator.integers(1, 300)), int(generator.integers(1, 500))
    values, owners = generator.integers(1, 1000, queries), generator.integers(0, images, queries)
    # The weights of some rows are at one end of the values, far from the overall median.
    weights = generator.integers(0, 4, size=(12, images))
    lowest = np.full(images, 1000)
    np.minimum.at(lowest, owners, values)
    weights[:3, lowest > 100] = 0
    weights[3:6, lowest < 900] = 0
    medians = weighted_medians(weights.astype(float), values, owners=owners)
    for row, median in zip(weights, medians, strict=True):
        repeated = np.repeat(values, row[owners])
        assert (np.isnan(median) and not len(repeated)) or median == np.median(repeated)
