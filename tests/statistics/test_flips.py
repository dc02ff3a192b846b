import numpy as np
import pytest

from clipret.config import METRICS
from clipret.retrieval.metrics import per_query
from clipret.statistics import flips
from clipret.statistics.flips import flip_tests
from clipret.statistics.intervals import Evidence, tabulate
from tests.helpers.ranked import best_ranks, joined, random_head

K = (1, 5)
COLUMNS = ((0, "R@1"), (0, "median_rank"), (1, "mAP@5"), (1, "median_rank"), (None, "rsum"))


def flip_heads(heads, pairs, *, columns=COLUMNS, k=K, families=METRICS, level=0.95, **settings):
    """flip_tests of heads, with few flips."""
    evidence = Evidence(tabulate(heads, k=k, families=families), columns, k=k)
    return flip_tests(evidence, pairs, level=level, **{"flips": 199, "seed": 0, **settings})


def exchanged(ours, theirs, *, signs):
    """Two heads after the exchange of the images whose sign is negative: metrics of each, by plain loops."""
    both = []
    for own, other in ((ours, theirs), (theirs, ours)):
        folds, start = [], 0
        for fold in range(len(own["t2i"])):
            images = np.unique(np.concatenate([own[direction][fold].images for direction in ("t2i", "i2t")]))
            flipped = dict(zip(images, signs[start:] < 0, strict=False))
            start += len(images)
            metrics = {}
            for direction in ("t2i", "i2t"):
                values = [per_query(head[direction][fold], k=K) for head in (own, other)]
                for name in values[0]:
                    mine = [
                        values[int(flipped[image])][name][query]
                        for query, image in enumerate(own[direction][fold].images)
                    ]
                    metrics[direction, name] = np.median(mine) if name == "median_rank" else np.mean(mine)
            folds.append(metrics)
        mean = {name: np.mean([metrics[name] for metrics in folds]) for name in folds[0]}
        rsum = sum(mean[direction, f"R@{cut}"] for direction in ("t2i", "i2t") for cut in K)
        both.append(
            [rsum if direction is None else mean[("t2i", "i2t")[direction], name] for direction, name in COLUMNS]
        )
    return np.array(both[0]) - both[1]


def drawn_heads():
    generator = np.random.default_rng(0)
    counts = [generator.integers(0, 6, size) for size in (13, 8)]
    return [joined(*(random_head(generator, counts=count, spread=12) for count in counts)) for _ in range(3)]


def changes_of(evidence, pair):
    """For each column, the root mean square contribution of the images that differ; none for medians."""
    a, b = np.eye(len(evidence.points))[list(pair)]
    shares = evidence.shares(a - b)
    roots = [np.sqrt((column[np.abs(column) > 1e-12] ** 2).mean()) for column in shares.T]
    return np.array([0.0 if name == "median_rank" else root for root, (_, name) in zip(roots, COLUMNS, strict=True)])


@pytest.mark.ci
def test_p_values_count_the_flips_that_a_plain_loop_counts():
    """Two additional images, one better and one worse, flipped like the others."""
    heads, pairs, number = drawn_heads(), [(0, 1), (0, 2), (1, 2)], 300
    estimates = flip_heads(heads, pairs, flips=number, seed=4)
    evidence = Evidence(tabulate(heads, k=K, families=METRICS), COLUMNS, k=K)
    signs = np.concatenate(list(flips._signs(evidence.images + 2, number, seed=4)))
    for (a, b), estimated in zip(pairs, estimates, strict=True):
        change = changes_of(evidence, (a, b))
        observed = exchanged(heads[a], heads[b], signs=np.ones(evidence.images))
        beyond = sum(
            np.abs(exchanged(heads[a], heads[b], signs=row[:-2]) + (row[-2] - row[-1]) * change)
            >= np.abs(observed) - 1e-9
            for row in signs
        )
        assert estimated.value == pytest.approx(observed)
        assert estimated.p == pytest.approx((1 + beyond) / (1 + number), abs=1e-12)


def test_the_interval_has_the_differences_that_the_same_flips_do_not_refuse():
    """By plain counting: just outside an end a difference is rejected, just inside it is not."""
    heads, number, level = drawn_heads(), 400, 0.9
    (estimated,) = flip_heads(heads, [(0, 1)], flips=number, seed=1, level=level)
    evidence = Evidence(tabulate(heads, k=K, families=METRICS), COLUMNS, k=K)
    signs = np.concatenate(list(flips._signs(evidence.images + 2, number, seed=1)))
    shares, change = evidence.shares(np.array([1.0, -1.0, 0.0])), changes_of(evidence, (0, 1))

    def p_value(difference, place):
        left = shares[:, place] - difference * evidence.weights[:, place]
        flipped = signs[:, :-2] @ left + (signs[:, -2] - signs[:, -1]) * change[place]
        return (1 + (np.abs(flipped) >= abs(left.sum()) - 1e-12).sum()) / (1 + number)

    for place, (_, name) in enumerate(COLUMNS):
        low, high = estimated.low[place], estimated.high[place]
        if name == "median_rank":
            assert np.isnan([low, high]).all()
            continue
        for end, outwards in ((low, -1e-6), (high, 1e-6)):
            assert p_value(end + outwards, place) <= 1 - level
            assert p_value(end - outwards, place) > 1 - level


@pytest.mark.parametrize("block", [300, 4000])
def test_the_block_size_decides_nothing(block, monkeypatch):
    expected = flip_heads(drawn_heads(), [(0, 1), (1, 2)], flips=500)
    monkeypatch.setattr(flips, "_HELD_SIGNS", block)
    for estimated, before in zip(flip_heads(drawn_heads(), [(0, 1), (1, 2)], flips=500), expected, strict=True):
        assert estimated.p.tolist() == before.p.tolist()
        assert estimated.low == pytest.approx(before.low, abs=1e-12, nan_ok=True)
        assert estimated.high == pytest.approx(before.high, abs=1e-12, nan_ok=True)


def test_further_flips_make_finer_p_values_and_leave_the_interval(monkeypatch):
    monkeypatch.setattr(flips, "_INTERVAL_FLIPS", 200)
    monkeypatch.setattr(flips, "_HELD_SIGNS", 2000)
    few, many = (flip_heads(drawn_heads(), [(0, 1)], flips=number)[0] for number in (200, 1000))
    assert few.low == pytest.approx(many.low, nan_ok=True)
    assert few.p.tolist() != many.p.tolist()


def test_flips_are_fair_and_the_same_in_any_blocks(monkeypatch):
    signs = np.concatenate(list(flips._signs(70, 2000, seed=0)))
    assert all(len(block) * 10_000 <= flips._HELD_SIGNS for block in flips._signs(70, 2000, seed=0, width=10_000))
    assert signs.shape == (2000, 70)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert np.abs(signs.mean(0)).max() < 0.1
    assert np.abs(np.corrcoef(signs.T) - np.eye(70)).max() < 0.12
    monkeypatch.setattr(flips, "_HELD_SIGNS", 300)
    assert np.array_equal(np.concatenate(list(flips._signs(70, 2000, seed=0))), signs)


def test_heads_that_got_the_same_differ_by_no_more_than_an_image_or_two():
    """p is 1, and the interval is that of the two additional images with the largest change: 2 of 20 either way."""
    head = random_head(np.random.default_rng(0), counts=np.full(20, 3))
    (estimated,) = flip_heads([head, head], [(0, 1)], flips=999)
    assert estimated.value.tolist() == [0.0] * len(COLUMNS)
    assert estimated.p.tolist() == [1.0] * len(COLUMNS)
    for place, limit in ((0, 1), (2, 1), (4, 4)):
        assert -0.3 * limit < estimated.low[place] < -0.1 * limit
        assert 0.1 * limit < estimated.high[place] < 0.3 * limit


def test_with_too_few_images_or_flips_the_interval_is_the_whole_range():
    heads = [
        {direction: (best_ranks(ranks, images=range(3)),) for direction in ("t2i", "i2t")}
        for ranks in ([1, 1, 1], [2, 2, 2])
    ]
    columns = ((0, "R@1"), (None, "rsum"))
    for settings in ({"flips": 999}, {"flips": 100, "level": 0.999}):
        (estimated,) = flip_heads(heads, [(0, 1)], columns=columns, k=(1,), families=("R",), **settings)
        assert estimated.low[0] < 0
        assert estimated.high.tolist() == [1.0, 2.0]
        assert (estimated.p > 0.05).all()


def test_progress_is_reported():
    head, blocks = random_head(np.random.default_rng(0), counts=np.full(20, 3)), []
    flip_heads([head, head], [(0, 1)], flips=99, on_block=blocks.append)
    assert blocks == [99]


def difficult(generator, *, difficulty, owners, gain):
    """A head with a difficulty for each image, shared by all captions of the image."""
    own = difficulty + generator.normal(size=len(difficulty)) - gain
    texts = np.exp(3 + own[owners] + 0.5 * generator.normal(size=len(owners)))
    images = np.exp(3 + own + 0.5 * generator.normal(size=len(own)))
    return np.ceil(texts), np.ceil(images)


def differences_found(*, gain, datasets, clustered=True):
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
            heads.append({direction: (of_direction,) for direction, of_direction in rankings.items()})
        families = ("R", "MRR", "median_rank")
        (estimated,) = flip_heads(heads, [(0, 1)], columns=columns, k=cuts, families=families, seed=seed)
        shown += estimated.p <= 0.05
    return shown / datasets


@pytest.mark.ci
def test_the_type_one_error_rate_is_the_nominal_one():
    shares = differences_found(gain=0.0, datasets=1000)
    assert ((shares >= 0.03) & (shares <= 0.07)).all(), shares


def test_flipping_single_captions_would_find_false_differences():
    assert differences_found(gain=0.0, datasets=200, clustered=False)[0] > 0.2


def test_a_real_difference_is_found():
    shares = differences_found(gain=0.6, datasets=100)
    assert (shares > 0.8).all(), shares
