import numpy as np
import pytest
from ranked import best_ranks, joined, random_head

from clipret import significance
from clipret.config import METRICS
from clipret.intervals import resample, tabulate
from clipret.metrics import per_query
from clipret.significance import (
    Evidence,
    contrast,
    estimate,
    flip_p_values,
    holm,
    pick,
    student_p,
    student_quantile,
)

K = (1, 5)
COLUMNS = ((0, "R@1"), (0, "median_rank"), (1, "mAP@5"), (1, "median_rank"), (None, "rsum"))


def exchanged(ours, theirs, *, signs):
    """Two heads after the exchange of the images whose sign is negative: metrics of each, by plain loops."""
    found = []
    for own, other in ((ours, theirs), (theirs, ours)):
        folds, start = [], 0
        for fold in range(len(own["t2i"])):
            images = np.unique(np.concatenate([own[way][fold].images for way in ("t2i", "i2t")]))
            flipped = dict(zip(images, signs[start:] < 0, strict=False))
            start += len(images)
            metrics = {}
            for way in ("t2i", "i2t"):
                values = [per_query(head[way][fold].ranks, k=K) for head in (own, other)]
                for name in values[0]:
                    mine = [
                        values[int(flipped[image])][name][query] for query, image in enumerate(own[way][fold].images)
                    ]
                    metrics[way, name] = np.median(mine) if name == "median_rank" else np.mean(mine)
            folds.append(metrics)
        mean = {name: np.mean([metrics[name] for metrics in folds]) for name in folds[0]}
        rsum = sum(mean[way, f"R@{cut}"] for way in ("t2i", "i2t") for cut in K)
        found.append([rsum if way is None else mean[("t2i", "i2t")[way], name] for way, name in COLUMNS])
    return np.array(found[0]) - found[1]


def test_p_values_count_the_flips_that_a_plain_loop_counts():
    generator = np.random.default_rng(0)
    counts = [generator.integers(0, 6, size) for size in (13, 8)]
    heads = [joined(*(random_head(generator, counts=count, spread=12) for count in counts)) for _ in range(3)]
    pairs, flips = [(0, 1), (0, 2), (1, 2)], 300
    tables = tabulate(heads, k=K, families=METRICS)
    found = flip_p_values(tables, pairs, columns=COLUMNS, k=K, flips=flips, seed=4)
    signs = np.concatenate(list(significance._signs(sum(table.images for table in tables), flips, seed=4)))
    for (a, b), p_values in zip(pairs, found, strict=True):
        observed = np.abs(exchanged(heads[a], heads[b], signs=np.ones(signs.shape[1])))
        beyond = sum(np.abs(exchanged(heads[a], heads[b], signs=row)) >= observed - 1e-9 for row in signs)
        assert p_values == pytest.approx((1 + beyond) / (1 + flips), abs=1e-12)


def test_flips_are_fair_and_the_same_in_any_blocks(monkeypatch):
    signs = np.concatenate(list(significance._signs(70, 2000, seed=0)))
    assert all(
        len(block) * 10_000 <= significance._HELD_SIGNS for block in significance._signs(70, 2000, seed=0, width=10_000)
    )
    assert signs.shape == (2000, 70)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert np.abs(signs.mean(0)).max() < 0.1
    assert np.abs(np.corrcoef(signs.T) - np.eye(70)).max() < 0.12
    monkeypatch.setattr(significance, "_HELD_SIGNS", 300)
    assert np.array_equal(np.concatenate(list(significance._signs(70, 2000, seed=0))), signs)


def test_heads_that_got_the_same_have_a_p_value_of_one():
    head = random_head(np.random.default_rng(0), counts=np.full(20, 3))
    found = flip_p_values(
        tabulate([head, head], k=K, families=METRICS), [(0, 1)], columns=COLUMNS, k=K, flips=99, seed=0
    )
    assert found.tolist() == [[1.0] * len(COLUMNS)]


def test_progress_is_told():
    head, told = random_head(np.random.default_rng(0), counts=np.full(20, 3)), []
    tables = tabulate([head, head], k=K, families=METRICS)
    flip_p_values(tables, [(0, 1)], columns=COLUMNS, k=K, flips=99, seed=0, on_block=told.append)
    assert told == [99]


def difficult(generator, *, difficulty, owners, gain):
    """A head to which each image is easy or hard by itself, and all of an image's captions with it."""
    own = difficulty + generator.normal(size=len(difficulty)) - gain
    texts = np.exp(3 + own[owners] + 0.5 * generator.normal(size=len(owners)))
    images = np.exp(3 + own + 0.5 * generator.normal(size=len(own)))
    return np.ceil(texts), np.ceil(images)


def found_differences(*, gain, datasets, clustered=True):
    """Share of data sets with p <= 0.05, by column: the ranks of A are better than those of B by a factor e**gain."""
    generator, cuts = np.random.default_rng(1), (10, 20)
    columns = ((0, "R@20"), (0, "median_rank"), (1, "MRR"), (None, "rsum"))
    shown = np.zeros(len(columns))
    for seed in range(datasets):
        owners = np.repeat(np.arange(100), generator.integers(3, 8, 100))
        difficulty = generator.normal(size=100)
        asked_by = owners if clustered else np.arange(len(owners))
        heads = []
        for more in (gain, 0.0):
            texts, images = difficult(generator, difficulty=difficulty, owners=owners, gain=more)
            rankings = {"t2i": best_ranks(texts, images=asked_by), "i2t": best_ranks(images, images=range(100))}
            heads.append({way: (found,) for way, found in rankings.items()})
        tables = tabulate(heads, k=cuts, families=("R", "MRR", "median_rank"))
        shown += flip_p_values(tables, [(0, 1)], columns=columns, k=cuts, flips=199, seed=seed)[0] <= 0.05
    return shown / datasets


def test_where_there_is_no_difference_one_is_found_as_often_as_it_says():
    shares = found_differences(gain=0.0, datasets=1000)
    assert ((shares >= 0.03) & (shares <= 0.07)).all(), shares


def test_flipping_captions_one_by_one_would_find_differences_that_are_not_there():
    assert found_differences(gain=0.0, datasets=200, clustered=False)[0] > 0.2


def test_a_real_difference_is_found():
    shares = found_differences(gain=0.6, datasets=100)
    assert (shares > 0.8).all(), shares


def seeded(generator, *, seeds, noise, images=300):
    """R@1 of two groups of equal settings: each training has its own luck, each image its own difficulty."""
    difficulty = generator.normal(size=images)
    heads = []
    for luck in generator.normal(0, noise, 2 * seeds):
        right = difficulty + luck + generator.normal(size=images) > 0
        heads.append({way: (best_ranks(2 - right, images=np.arange(images)),) for way in ("t2i", "i2t")})
    tables = tabulate(heads, k=(1,), families=("R",))
    columns = ((0, "R@1"),)
    points, draws = (
        pick(values, tables[0].names, columns=columns, k=(1,))
        for values in (tables[0].measure(np.ones((1, images)))[0], resample(tables, resamples=200, seed=0))
    )
    return Evidence(points, draws, images)


def seeds_found(*, seeds, noise, datasets, ignored=False):
    generator, shown = np.random.default_rng(2), 0
    for _ in range(datasets):
        evidence = seeded(generator, seeds=seeds, noise=noise)
        first, second = tuple(range(seeds)), tuple(range(seeds, 2 * seeds))
        if ignored:
            # These seeds taken for all there are: the mean over them is a head alone.
            means = [evidence.points[list(side)].mean(0) for side in (first, second)]
            draws = [evidence.draws[:, list(side)].mean(1) for side in (first, second)]
            evidence = Evidence(np.stack(means), np.stack(draws, axis=1), evidence.images)
            found = contrast(evidence, (0,), (1,), level=0.95)
            shown += not found.low[0] <= 0 <= found.high[0]
        else:
            shown += contrast(evidence, first, second, level=0.95).p[0] <= 0.05
    return shown / datasets


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_where_seeds_differ_more_than_settings_a_difference_is_found_as_often_as_it_says(seeds):
    assert 0.03 <= seeds_found(seeds=seeds, noise=0.3, datasets=600) <= 0.07


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
def test_where_seeds_differ_little_a_difference_is_found_no_more_often_than_it_says(noise):
    assert seeds_found(seeds=3, noise=noise, datasets=300) <= 0.05


def test_taking_the_seeds_for_all_there_are_would_find_differences_that_are_not_there():
    assert seeds_found(seeds=3, noise=0.3, datasets=100, ignored=True) > 0.3


def evidence_of(points, *, images=100, width=0.01):
    """Heads with these figures in one column, whose draws all have the same standard deviation and are independent."""
    points = np.array(points, dtype=float)[:, None]
    draws = points + width * np.random.default_rng(0).normal(size=(4000, len(points), 1))
    return Evidence(points, draws, images)


def test_a_head_alone_has_the_percentiles_of_its_draws():
    evidence = evidence_of([0.5, 0.7])
    found = estimate(evidence, (1,), level=0.9)
    assert found.value == pytest.approx(0.7)
    assert [found.low[0], found.high[0]] == pytest.approx(np.quantile(evidence.draws[:, 1, 0], [0.05, 0.95]))
    assert found.spread is None
    assert found.p is None


def test_of_two_heads_alone_the_interval_is_that_of_their_differences():
    evidence = evidence_of([0.5, 0.7])
    found = contrast(evidence, (1,), (0,), level=0.9)
    assert found.value == pytest.approx(0.2)
    differences = evidence.draws[:, 1, 0] - evidence.draws[:, 0, 0]
    assert [found.low[0], found.high[0]] == pytest.approx(np.quantile(differences, [0.05, 0.95]))
    assert found.p is None


def test_seeds_add_their_variance_to_that_of_the_images():
    evidence = evidence_of([0.50, 0.52, 0.54, 0.70, 0.74])
    found = estimate(evidence, (0, 1, 2), level=0.95)
    assert found.value == pytest.approx(0.52)
    assert found.spread == pytest.approx(0.02)
    images, seeds = evidence.draws[:, :3].mean(1).var(ddof=1), 0.02**2 / 3
    freedom = (images + seeds) ** 2 / (images**2 / 99 + seeds**2 / 2)
    reach = student_quantile(0.95, freedom) * np.sqrt(images + seeds)
    assert [found.low[0], found.high[0]] == pytest.approx([0.52 - reach, 0.52 + reach])


def test_the_difference_of_groups_has_welch_s_p_value_and_interval():
    evidence = evidence_of([0.50, 0.52, 0.54, 0.70, 0.74])
    found = contrast(evidence, (0, 1, 2), (3, 4), level=0.95)
    draws = evidence.draws[:, :3].mean(1) - evidence.draws[:, 3:].mean(1)
    parts = [(draws.var(ddof=1), 99), (0.02**2 / 3, 2), (np.var([0.70, 0.74], ddof=1) / 2, 1)]
    error = np.sqrt(sum(variance for variance, _ in parts))
    freedom = error**4 / sum(variance**2 / count for variance, count in parts)
    assert found.value == pytest.approx(-0.2)
    assert found.p == pytest.approx(student_p(0.2 / error, freedom))
    assert found.high - found.low == pytest.approx(2 * student_quantile(0.95, freedom) * error)
    assert found.spread is None


def test_groups_without_any_variance_are_equal_or_as_different_as_the_draws_can_tell():
    evidence = evidence_of([2, 2, 2, 1, 1], width=0)
    assert contrast(evidence, (0, 1), (2,), level=0.95).p.tolist() == [1.0]
    found = contrast(evidence, (0, 1), (3, 4), level=0.95)
    assert (found.p.tolist(), found.low.tolist(), found.high.tolist()) == ([1 / 4001], [1.0], [1.0])


def test_rsum_adds_up_the_recalls_of_its_own_k():
    values = np.arange(6.0).reshape(2, 3)
    names = ("R@1", "R@3", "R@5")
    assert pick(values, names, columns=((None, "rsum"), (1, "R@3")), k=(1, 5)).tolist() == [0 + 2 + 3 + 5, 4.0]
    assert pick(values, names, columns=((0, "R@5"),), k=(1, 7)).tolist() == [2.0]


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
    assert student_quantile(0.95, freedom) == pytest.approx(quantile, abs=1e-6)
    assert student_p(quantile, freedom) == pytest.approx(0.05, abs=1e-7)


def test_student_s_t_has_its_limits():
    assert student_p(0.0, 3.5) == 1.0
    assert student_p(np.inf, 3.5) == 0.0
    # P(|T| >= t) of one degree of freedom is 1 - 2 atan(t) / pi.
    assert student_p(1e6, 1) == pytest.approx(2 / np.pi * 1e-6, rel=1e-6)
