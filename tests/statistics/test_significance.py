import numpy as np
import pytest
from scipy.stats import t as student

from clipret.statistics.intervals import Evidence, tabulate
from clipret.statistics.significance import Heads, contrast, estimate, holm, intervals_of, paired, student_quantile
from tests.helpers.ranked import best_ranks

COLUMNS = ((0, "R@1"), (1, "MRR"), (0, "median_rank"), (0, "mean_rank"), (None, "rsum"))
IMAGES = 60


def heads_of(*shares, columns=COLUMNS):
    """Heads that rank first on these fractions of the images, and second on all others."""
    order = np.random.default_rng(0).permutation(IMAGES)
    ranks = [np.where(order < round(share * IMAGES), 1, 2) for share in shares]
    heads = [{direction: (best_ranks(first, images=range(IMAGES)),) for direction in ("t2i", "i2t")} for first in ranks]
    return Evidence(tabulate(heads, k=(1,), families=("R", "MRR", "median_rank", "mean_rank")), columns, k=(1,))


def images_variance(evidence, mixture):
    """The variance of a difference with two more images, one better and one worse, by the typical change."""
    shares = evidence.shares(mixture)[:, 0]
    return evidence.variance(mixture)[0] + 2 * (shares[np.abs(shares) > 1e-12] ** 2).mean()


def reach(parts, outside):
    """Half of an interval: Student's quantiles, weighted by the variances, times the root of their sum."""
    total = sum(variance for variance, _ in parts)
    return sum(variance / total * student.isf(outside / 2, freedom) for variance, freedom in parts) * np.sqrt(total)


def test_a_head_alone_has_an_interval_over_images_and_no_spread():
    estimated = estimate(heads_of(0.5, 0.7), (1,), level=0.95)
    assert estimated.value == pytest.approx([0.7, 0.85, 1.0, 1.3, 1.4])
    assert estimated.spread is None
    assert estimated.p is None
    low, high = estimated.low, estimated.high
    # About the binomial interval of 42 of 60.
    assert (low[0], high[0]) == pytest.approx((0.576, 0.805), abs=0.005)
    assert low[1] == pytest.approx(0.5 + low[0] / 2, abs=0.02)
    assert (low[2], high[2]) == (1, 1)


def test_a_mean_rank_has_no_interval_and_a_median_none_over_seeds():
    evidence = heads_of(0.5, 0.7, 0.6)
    alone, several = estimate(evidence, (0,), level=0.95), estimate(evidence, (0, 1), level=0.95)
    assert [interval is None for interval in intervals_of(alone)] == [False, False, False, True, False]
    assert [interval is None for interval in intervals_of(several)] == [False, False, True, True, False]
    difference = contrast(evidence, Heads((0, 1)), Heads((2,)), level=0.95)
    assert [interval is None for interval in intervals_of(difference)] == [False, False, True, True, False]
    assert np.isnan(difference.p).tolist() == [False, False, True, False, False]


def test_seeds_make_the_interval_of_their_mean_wider():
    evidence = heads_of(0.5, 0.5, 0.6, 0.4)
    same, spread = estimate(evidence, (0, 1), level=0.95), estimate(evidence, (2, 3), level=0.95)
    assert same.value[0] == spread.value[0] == 0.5
    assert same.spread[0] == 0.0
    assert spread.spread[0] == pytest.approx(np.std([0.6, 0.4], ddof=1))
    alone = estimate(evidence, (0,), level=0.95)
    assert [same.low[0], same.high[0]] == pytest.approx([alone.low[0], alone.high[0]], abs=0.01)
    # Two seeds, each 0.1 from their mean: almost no information.
    assert spread.low[0] < 0.1
    assert spread.high[0] > 0.9


def test_the_interval_of_seeds_is_as_wide_as_their_variance_and_that_of_images_make_it():
    """In the middle of the range and with a few seeds, the interval is nearly symmetric."""
    evidence = heads_of(0.5, 0.52, 0.48, 0.5, 0.5)
    estimated = estimate(evidence, (0, 1, 2, 3, 4), level=0.95)
    sample = np.var([0.5, round(0.52 * 60) / 60, round(0.48 * 60) / 60, 0.5, 0.5], ddof=1)
    half = reach([(evidence.variance(np.full(5, 0.2))[0], IMAGES - 1), (sample / 5, 4)], 0.05)
    assert (estimated.high[0] - estimated.low[0]) / 2 == pytest.approx(half, rel=0.03)


def test_intervals_of_seeds_stay_within_what_a_metric_can_be():
    estimated = estimate(heads_of(1.0, 0.2), (0, 1), level=0.95)
    assert 0 <= estimated.low[0] < 0.05
    assert 0.95 < estimated.high[0] <= 1
    assert estimated.high[4] <= 2
    difference = contrast(heads_of(1.0, 0.2, 0.0), Heads((0, 1)), Heads((2,), varies=False), level=0.95)
    assert (difference.low[0], difference.high[0]) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("second", "drawn", "freedom"),
    [
        (Heads((3, 4)), 1 / 3 + 1 / 2, 3),
        (Heads((3,)), 1 / 3 + 1, 2),
        (Heads((3,), varies=False), 1 / 3, 2),
    ],
)
def test_a_difference_has_the_pooled_spread_of_the_seeds_on_either_side(second, drawn, freedom):
    """A single run is assumed to have the variance of the other group; zero-shot has none."""
    evidence = heads_of(0.5, 0.55, 0.6, 0.4, 0.5)
    sides = [evidence.points[:3, 0], evidence.points[list(second.members), 0]]
    pooled = sum(((side - side.mean()) ** 2).sum() for side in sides) / freedom
    mixture = np.array([1 / 3] * 3 + [0.0] * 2)
    mixture[list(second.members)] = -1 / len(second.members)
    parts = [(images_variance(evidence, mixture), IMAGES - 1), (pooled * drawn, freedom)]
    estimated = contrast(evidence, Heads((0, 1, 2)), second, level=0.9)
    value = sides[0].mean() - sides[1].mean()
    assert estimated.value[0] == pytest.approx(value)
    assert estimated.high[0] - estimated.low[0] == pytest.approx(2 * reach(parts, 0.1))
    assert reach(parts, estimated.p[0]) == pytest.approx(value)
    assert estimated.spread is None


def test_two_single_heads_have_the_interval_of_student_over_images():
    evidence = heads_of(0.5, 0.7)
    estimated = paired(evidence, 1, 0, level=0.9)
    assert estimated.value[0] == pytest.approx(evidence.points[1, 0] - evidence.points[0, 0])
    half = reach([(images_variance(evidence, np.array([-1.0, 1.0])), IMAGES - 1)], 0.1)
    assert estimated.high[0] - estimated.value[0] == pytest.approx(half)
    assert estimated.value[0] - estimated.low[0] == pytest.approx(half)
    assert estimated.p is None


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_of_a_difference_leaves_0_out_where_p_says_so(seed):
    shares = np.random.default_rng(seed).uniform(0.3, 0.9, 5)
    evidence = heads_of(*shares)
    for level in (0.5, 0.8, 0.95):
        estimated = contrast(evidence, Heads((0, 1)), Heads((2, 3, 4)), level=level)
        for place, interval in enumerate(intervals_of(estimated)):
            if interval is not None:
                assert (interval[0] > 0 or interval[1] < 0) == (estimated.p[place] <= 1 - level)


def test_three_seeds_that_all_got_the_same_as_another_head_differ_by_nothing_at_all():
    """Sums of thirds differ in the last bit."""
    evidence = heads_of(0.7, 0.7, 0.7, 0.7)
    assert contrast(evidence, Heads((0, 1, 2)), Heads((3,)), level=0.95).value.tolist() == [0.0] * len(COLUMNS)


def test_groups_without_a_difference_have_a_p_of_one_and_those_without_variance_the_smallest_possible_p():
    evidence = heads_of(0.5, 0.5, 0.5)
    assert contrast(evidence, Heads((0, 1)), Heads((2,)), level=0.95).p[[0, 1, 4]].tolist() == [1.0] * 3
    apart = heads_of(1.0, 1.0, 0.0, columns=((0, "mean_rank"),))
    assert contrast(apart, Heads((0, 1)), Heads((2,)), level=0.95).p[0] == pytest.approx(1e-12, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_holm_rejects_what_its_steps_reject(seed):
    p_values = np.random.default_rng(seed).random(12) ** 4
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.2):
        rejected = set()
        for step, place in enumerate(sorted(range(12), key=lambda place: p_values[place])):
            if p_values[place] > alpha / (12 - step):
                break
            rejected.add(place)
        assert set(np.flatnonzero(adjusted <= alpha)) == rejected
    assert adjusted.max() <= 1


def test_holm_of_one_test_is_the_test():
    assert holm(np.array([0.03])).tolist() == [0.03]


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # Tables of Student's t, 97.5 %.
    [(1, 12.706205), (2, 4.302653), (5, 2.570582), (30, 2.042272), (1000, 1.962339), (1e7, 1.959964)],
)
def test_student_s_t_is_that_of_the_tables(freedom, quantile):
    assert student_quantile(0.05, freedom) == pytest.approx(quantile, abs=1e-6)


def test_student_s_t_has_its_limits():
    assert student_quantile(1.0, 3.5) == 0.0
    # P(|T| >= t) of one degree of freedom is 1 - 2 atan(t) / pi.
    assert student_quantile(2 / np.pi * 1e-6, 1) == pytest.approx(1e6, rel=1e-6)
