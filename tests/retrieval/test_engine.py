"""The engine against a naive sort in float64, on the CPU's path and on torch's."""

import threading

import numpy as np
import pytest
import torch

from clipret.retrieval import cpu, cuda, engine
from clipret.retrieval.engine import Matches, rank
from clipret.retrieval.ties import TIE_TOLERANCE, slack
from tests.helpers.ranked import rank_captions


@pytest.fixture(params=["cpu", "torch"])
def counting(request, monkeypatch):
    """Each way of counting, on the CPU; with tiles of 5 captions, and two threads where there are threads."""
    if request.param == "torch":
        monkeypatch.setattr(engine, "count_on_cpu", cuda.count_by_torch)
    monkeypatch.setattr(cpu, "CAPTIONS_AT_ONCE", 5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)


def naive_ranks(scores, positives):
    """Sort a query's gallery: other items first where they tie with a matching one, and NaN before everything."""
    ranks = []
    for row, matching in zip(scores, positives, strict=True):
        beaten_by = sorted(
            sum(item not in matching and not row[item] < row[own] - TIE_TOLERANCE for item in range(len(row)))
            for own in matching
        )
        ranks += [count + place for place, count in enumerate(beaten_by, start=1)]
    return np.array(ranks, dtype=np.int64)


def uneven_captions(generator, images):
    """caption_images of a set whose images carry one to seven captions, in mixed order."""
    return generator.permutation(np.repeat(np.arange(images), generator.integers(1, 8, size=images)))


def tied_unit_vectors(generator, count):
    """Rows of +-1/2: unit vectors whose products are exact multiples of 1/4, so that most scores tie."""
    return torch.tensor(generator.choice([-0.5, 0.5], size=(count, 4)), dtype=torch.float32)


def unit(rows):
    return torch.nn.functional.normalize(torch.as_tensor(rows, dtype=torch.float32), dim=1)


def random_unit_vectors(generator, count):
    return unit(generator.normal(size=(count, 6)))


def close_unit_vectors(generator, count):
    """So close to each other that their scores differ by about the tolerance."""
    return unit(np.array([1.0, 0, 0, 0]) + 5e-4 * generator.normal(size=(count, 4)))


def random_matches(generator, images, captions, *, most):
    """Pairs of each direction by itself: up to `most` of a query, and queries that have none."""
    pairs_of = {}
    for direction, (asking, gallery) in {"t2i": (captions, images), "i2t": (images, captions)}.items():
        pairs = [
            (query, item)
            for query in range(asking)
            for item in generator.choice(gallery, size=generator.integers(0, min(most, gallery) + 1), replace=False)
        ]
        pairs_of[direction] = tuple(np.array(generator.permutation(pairs or [(0, 0)])).T)
    return pairs_of


def check(images, texts, pairs, **settings):
    """Ranks equal the naive ones in both directions."""
    owners = np.zeros(len(texts), dtype=np.int64)
    ranked = rank(images, texts, matches=Matches.of(owners, images=len(images), matches=pairs), **settings)
    scores = (texts.double() @ images.double().T).numpy()
    for direction, matrix in {"t2i": scores, "i2t": scores.T}.items():
        asking = np.unique(pairs[direction][0])
        positives = [pairs[direction][1][pairs[direction][0] == query].tolist() for query in asking]
        np.testing.assert_array_equal(ranked[direction].rows, asking)
        np.testing.assert_array_equal(ranked[direction].positives, [len(own) for own in positives])
        np.testing.assert_array_equal(ranked[direction].ranks, naive_ranks(matrix[asking], positives))
        assert ranked[direction].gallery == matrix.shape[1]
    return ranked


def own_pairs(owners):
    captions = np.arange(len(owners))
    return {"t2i": (captions, owners), "i2t": (owners, captions)}


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("block", [1, 7, 512])
@pytest.mark.parametrize("vectors", [tied_unit_vectors, random_unit_vectors, close_unit_vectors])
@pytest.mark.parametrize("seed", range(8))
def test_ranks_equal_a_naive_sort_in_both_directions(seed, vectors, block):
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 40))
    owners = uneven_captions(generator, count)
    check(vectors(generator, count), vectors(generator, len(owners)), own_pairs(owners), block=block)


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("vectors", [tied_unit_vectors, random_unit_vectors, close_unit_vectors])
@pytest.mark.parametrize("most", [1, 6, 70])
@pytest.mark.parametrize("seed", range(4))
def test_any_number_of_matching_items_in_either_direction(seed, most, vectors):
    generator = np.random.default_rng(seed)
    images, captions = (int(count) for count in generator.integers(1, 90, size=2))
    pairs = random_matches(generator, images, captions, most=most)
    check(vectors(generator, images), vectors(generator, captions), pairs, block=16)


@pytest.mark.usefixtures("counting")
def test_a_single_image_and_a_single_caption():
    ranked = check(torch.eye(1, 3), torch.eye(1, 3), own_pairs(np.array([0])))
    assert ranked["t2i"].ranks == ranked["i2t"].ranks == [1]


@pytest.mark.ci
def test_a_whole_tile_and_more_equals_the_same_by_torch(monkeypatch):
    """At the real size of tiles, with several of them each way, and a last one that is not full."""
    generator = np.random.default_rng(0)
    owners = generator.permutation(np.repeat(np.arange(1100), 8))
    images, texts = unit(generator.normal(size=(1100, 32))), unit(generator.normal(size=(8800, 32)))
    images[300:310], texts[5000:5020] = images[:10], texts[:20]
    ours = rank_captions(images, texts, caption_images=owners)
    monkeypatch.setattr(engine, "count_on_cpu", cuda.count_by_torch)
    by_torch = rank_captions(images, texts, caption_images=owners)
    exact = (texts.double() @ images.double().T).numpy()
    some = generator.choice(8800, size=200, replace=False)
    for ranked in (ours, by_torch):
        np.testing.assert_array_equal(ranked["t2i"].ranks[some], naive_ranks(exact[some], owners[some, None]))
    for direction in ours:
        np.testing.assert_array_equal(ours[direction].ranks, by_torch[direction].ranks)


@pytest.mark.usefixtures("counting")
def test_an_image_without_caption_is_ranked_but_is_no_query():
    images = torch.eye(3)
    ranked = rank_captions(images, images[[0, 2]], caption_images=np.array([0, 2]))
    assert ranked["t2i"].gallery == 3
    assert ranked["i2t"].queries == 2
    np.testing.assert_array_equal(ranked["i2t"].rows, [0, 2])
    np.testing.assert_array_equal(ranked["i2t"].ranks, [1, 1])


def duplicated(generator, count, width=512):
    """Images and captions of which the last third repeats the first, at a width whose sums are rounded."""
    images = unit(generator.normal(size=(count, width)))
    images[-(count // 3) :] = images[: count // 3]
    texts = unit(images + 0.05 * unit(generator.normal(size=(count, width))))
    texts[-(count // 3) :] = texts[: count // 3]
    return images, texts


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("block", [1, 7, 30, 90])
@pytest.mark.parametrize("captions_at_once", [1, 4, 30, 4096])
def test_duplicates_tie_whatever_tile_they_fall_in(block, captions_at_once, monkeypatch):
    """Each of two equal items ranks after the other: their ranks are equal, in both directions."""
    monkeypatch.setattr(cpu, "CAPTIONS_AT_ONCE", captions_at_once)
    images, texts = duplicated(np.random.default_rng(3), 90)
    ranked = rank_captions(images, texts, caption_images=np.arange(90), block=block)
    for ranks in ranked.values():
        np.testing.assert_array_equal(ranks.ranks, np.repeat([2, 1, 2], 30))


@pytest.mark.usefixtures("counting")
def test_embeddings_of_equal_captions_that_differ_in_their_last_bits_tie():
    """As they do when a head embeds them in different batches."""
    images, texts = duplicated(np.random.default_rng(4), 90)
    texts[60:] = torch.nextafter(texts[60:], torch.zeros(()))
    images[60:] = torch.nextafter(images[60:], torch.zeros(()))
    ranked = rank_captions(images, texts, caption_images=np.arange(90), block=16)
    for ranks in ranked.values():
        assert (ranks.ranks[:30] == 2).all()
        assert (ranks.ranks[60:] == 2).all()


def at_distance(distance, *, width=256):
    """An image, and two captions of which the second scores `distance` less than the first, the image's own."""
    image = torch.zeros(1, width, dtype=torch.float64)
    image[0, 0] = 1
    scores = torch.tensor([0.5, 0.5 - distance], dtype=torch.float64)
    texts = torch.zeros(2, width, dtype=torch.float64)
    texts[:, 0], texts[:, 1] = scores, (1 - scores**2).sqrt()
    return image.float(), texts.float()


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize(("distance", "expected"), [(0, 2), (5e-7, 2), (9e-7, 2), (1.1e-6, 1), (1.6e-6, 1), (1e-3, 1)])
def test_what_float32_can_hardly_tell_apart_is_decided_in_float64(distance, expected):
    """float32 has steps of 3e-8 to 6e-8 here, fine enough to distinguish 0.9 and 1.1 of the tolerance."""
    images, texts = at_distance(distance)
    pairs = {"t2i": (np.array([0, 1]), np.array([0, 0])), "i2t": (np.array([0]), np.array([0]))}
    ranked = check(images, texts, pairs)
    assert ranked["i2t"].ranks == [expected]


@pytest.mark.usefixtures("counting")
def test_scores_within_the_slack_are_looked_at_again_and_not_trusted(monkeypatch):
    """With a product that is wrong by less than the slack, ranks are still those of float64."""
    noise = np.random.default_rng(0)

    def noisy(self, left, right):
        product = torch.bmm(left, right)
        most = 0.8 * slack(left.shape[-1])
        return product + torch.tensor(noise.uniform(-most, most, size=product.shape), dtype=torch.float32)

    monkeypatch.setattr("clipret.machine.products.Products.__call__", noisy)
    generator = np.random.default_rng(1)
    owners = uneven_captions(generator, 30)
    check(close_unit_vectors(generator, 30), close_unit_vectors(generator, len(owners)), own_pairs(owners), block=7)


def alike(generator, kind, *, rows, width):
    """Unit vectors whose products have terms that are alike, so that rounding errors in float32 add up."""
    kinds = {
        "normal": lambda: generator.normal(size=(rows, width)),
        "constant": lambda: np.ones((rows, width)),
        "signs": lambda: generator.choice([-1.0, 1.0], size=(rows, width)),
        "whole numbers": lambda: generator.integers(1, 10, size=(rows, width)),
    }
    return unit(kinds[kind]())


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("kind", ["constant", "signs", "whole numbers"])
@pytest.mark.parametrize("width", [640, 1000, 1280])
def test_equal_embeddings_tie_also_where_float32_sums_them_badly(kind, width):
    generator = np.random.default_rng(0)
    images = alike(generator, kind, rows=60, width=width)
    images = torch.cat([images, images])
    ranked = check(images, images.clone(), own_pairs(np.arange(120)))
    for ranks in ranked.values():
        assert (ranks.ranks >= 2).all()
        if kind == "constant":
            assert (ranks.ranks == 120).all()


@pytest.mark.parametrize("kind", ["normal", "constant", "signs", "whole numbers"])
@pytest.mark.parametrize("width", [1, 64, 512, 640, 1024, 1059, 1280])
def test_products_in_float32_are_off_by_less_than_the_slack(kind, width):
    generator = np.random.default_rng(0)
    images, texts = (alike(generator, kind, rows=rows, width=width) for rows in (512, 4096))
    texts[:512] = images
    product = cpu.Products("cpu")(images[None], texts.T[None])[0]
    assert (product.double() - images.double() @ texts.double().T).abs().max() < slack(width)


@pytest.mark.usefixtures("counting")
def test_constant_embeddings_rank_last():
    same = unit(np.ones((10, 4)))
    ranked = rank_captions(same, same, caption_images=np.arange(10))
    assert (ranked["t2i"].ranks == 10).all()
    assert (ranked["i2t"].ranks == 10).all()


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("side", ["image", "text"])
def test_nan_embeddings_never_score_well(side):
    images, texts = torch.eye(5), torch.eye(5)
    (images if side == "image" else texts)[2] = torch.nan
    ranked = check(images, texts, own_pairs(np.arange(5)))
    assert ranked["t2i"].ranks[2] >= 5
    assert ranked["i2t"].ranks[2] >= 5
    # The NaN ranks before the matching items of the others, too.
    assert (ranked["t2i" if side == "image" else "i2t"].ranks[[0, 1, 3, 4]] == 2).all()


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("most", [3, 40])
def test_a_nan_among_matching_items_is_the_last_of_them(most):
    generator = np.random.default_rng(2)
    images, texts = random_unit_vectors(generator, 50), random_unit_vectors(generator, 60)
    texts[[4, 9]], images[7] = torch.nan, torch.nan
    check(images, texts, random_matches(generator, 50, 60, most=most), block=16)


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("block", [1, 7, 512])
@pytest.mark.parametrize("top", [1, 4, 100])
@pytest.mark.parametrize("vectors", [tied_unit_vectors, random_unit_vectors])
def test_the_best_items_are_those_of_a_stable_sort(vectors, top, block):
    generator = np.random.default_rng(top)
    owners = uneven_captions(generator, 20)
    images, texts = vectors(generator, 20), vectors(generator, len(owners))
    ranked = rank_captions(images, texts, caption_images=owners, block=block, top=top)
    # In float32 as the engine's: exact for the tied ones, and no two of the others are as close.
    scores = (texts @ images.T).numpy()
    for direction, matrix in {"t2i": scores, "i2t": scores.T}.items():
        np.testing.assert_array_equal(ranked[direction].top, np.argsort(-matrix, axis=1, kind="stable")[:, :top])


@pytest.mark.usefixtures("counting")
def test_a_nan_is_the_best_item_of_all():
    images, texts = torch.eye(5), torch.eye(5)
    images[3] = torch.nan
    ranked = rank_captions(images, texts, caption_images=np.arange(5), top=2)
    assert (ranked["t2i"].top[:, 0] == 3).all()
    np.testing.assert_array_equal(ranked["t2i"].top[[0, 1, 2, 4], 1], [0, 1, 2, 4])


def test_best_items_are_not_kept_unless_asked_for():
    ranked = rank_captions(torch.eye(3), torch.eye(3), caption_images=np.arange(3))
    assert ranked["t2i"].top is ranked["i2t"].top is None


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_lower_precision_rounds_the_embeddings_and_ranks_them_as_exactly(precision):
    generator = np.random.default_rng(5)
    owners = uneven_captions(generator, 60)
    images, texts = (unit(generator.normal(size=(count, 64))) for count in (60, len(owners)))
    ranked = rank_captions(images, texts, caption_images=owners, precision=precision)
    bits = {"tf32": 10, "bf16": 7}[precision]
    coarse = []
    for side in (images, texts):
        mantissa, exponent = np.frexp(side.numpy())
        coarse.append(torch.tensor(np.ldexp(np.rint(np.ldexp(mantissa, bits + 1)), exponent - bits - 1)))
    expected = rank_captions(*coarse, caption_images=owners)
    assert not torch.equal(coarse[0], images)
    for direction in ranked:
        np.testing.assert_array_equal(ranked[direction].ranks, expected[direction].ranks)


@pytest.mark.usefixtures("counting")
def test_progress_counts_images_up_to_all_of_them():
    reports = []
    images = random_unit_vectors(np.random.default_rng(0), 20)
    rank_captions(images, images, caption_images=np.arange(20), block=6, on_progress=reports.append)
    assert {report.phase for report in reports} == {"ranking"}
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert (reports[-1].done, reports[-1].total) == (20, 20)


@pytest.mark.ci
def test_an_interruption_ends_the_threads_and_leaves_torch_its_own(monkeypatch):
    monkeypatch.setattr(cpu, "CAPTIONS_AT_ONCE", 2)
    counted, stopped = [], threading.Event()
    count = cpu._count

    def counts(*tile):
        # After the first tile the others wait, so that they cannot all be done before the interruption comes.
        if counted:
            stopped.wait(10)
        counted.append(count(*tile))

    monkeypatch.setattr(cpu, "_count", counts)
    threads = torch.get_num_threads()

    def stop(progress):
        stopped.set()
        raise KeyboardInterrupt

    try:
        torch.set_num_threads(2)
        images = random_unit_vectors(np.random.default_rng(0), 400)
        with pytest.raises(KeyboardInterrupt):
            rank_captions(images, images, caption_images=np.arange(400), block=2, on_progress=stop)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert len(counted) < 200 * 200


def test_an_error_in_a_thread_is_not_hidden_by_the_next_tile(monkeypatch):
    monkeypatch.setattr(cpu, "CAPTIONS_AT_ONCE", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)

    def fails(*tile):
        raise MemoryError

    monkeypatch.setattr(cpu, "_count", fails)
    images = random_unit_vectors(np.random.default_rng(0), 40)
    with pytest.raises(MemoryError):
        rank_captions(images, images, caption_images=np.arange(40), block=2)


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_nan_of_any_bits_stays_one_at_every_precision(precision):
    images = torch.eye(5)
    images[2] = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    ranked = rank_captions(images, torch.eye(5), caption_images=np.arange(5), precision=precision)
    assert ranked["t2i"].ranks.tolist() == [2, 2, 5, 2, 2]


def corrections_of(generator, images, captions, *, exact):
    """For both directions: multiples of 1/4, so that ties stay ties, or any numbers, far from zero."""
    counts = {"t2i": images, "i2t": captions}
    if exact:
        return {name: torch.tensor(generator.integers(-2, 3, size=count) / 4) for name, count in counts.items()}
    return {name: torch.tensor(7 + generator.normal(size=count)) for name, count in counts.items()}


def check_corrected(images, texts, pairs, corrections, **settings):
    """Ranks equal the naive ones of corrected scores in float64, in both directions; returns ranks and scores."""
    owners = np.zeros(len(texts), dtype=np.int64)
    matches = Matches.of(owners, images=len(images), matches=pairs)
    ranked = rank(images, texts, matches=matches, corrections=corrections, **settings)
    cosines = (texts.double() @ images.double().T).numpy()
    scores = {"t2i": cosines - corrections["t2i"].numpy(), "i2t": cosines.T - corrections["i2t"].numpy()}
    for direction, matrix in scores.items():
        asking = np.unique(pairs[direction][0])
        positives = [pairs[direction][1][pairs[direction][0] == query].tolist() for query in asking]
        np.testing.assert_array_equal(ranked[direction].ranks, naive_ranks(matrix[asking], positives))
    return ranked, scores


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("block", [1, 7, 512])
@pytest.mark.parametrize("vectors", [tied_unit_vectors, random_unit_vectors])
@pytest.mark.parametrize("seed", range(6))
def test_corrected_ranks_equal_a_naive_sort_of_corrected_scores(seed, vectors, block):
    generator = np.random.default_rng(seed)
    images, captions = (int(count) for count in generator.integers(1, 60, size=2))
    pairs = random_matches(generator, images, captions, most=5)
    corrections = corrections_of(generator, images, captions, exact=vectors is tied_unit_vectors)
    sides = vectors(generator, images), vectors(generator, captions)
    ranked, scores = check_corrected(*sides, pairs, corrections, block=block, top=4)
    for direction, matrix in scores.items():
        expected = np.argsort(-matrix, axis=1, kind="stable")[:, :4][ranked[direction].rows]
        np.testing.assert_array_equal(ranked[direction].top, expected)


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize(("distance", "expected"), [(5e-7, 2), (9e-7, 2), (1.1e-6, 1), (1.6e-6, 1)])
def test_ties_of_corrected_scores_are_decided_in_float64(distance, expected):
    """Two captions of equal cosine, of which the second is corrected by a little more."""
    image, texts = at_distance(0)
    corrections = {"t2i": torch.zeros(1), "i2t": torch.tensor([0.0, distance], dtype=torch.float64)}
    pairs = {"t2i": (np.array([0, 1]), np.array([0, 0])), "i2t": (np.array([0]), np.array([0]))}
    ranked, _ = check_corrected(image, texts, pairs, corrections)
    assert ranked["i2t"].ranks == [expected]


@pytest.mark.usefixtures("counting")
def test_a_constant_correction_changes_no_rank():
    generator = np.random.default_rng(0)
    owners = uneven_captions(generator, 30)
    images, texts = close_unit_vectors(generator, 30), close_unit_vectors(generator, len(owners))
    constant = {"t2i": torch.full((30,), 40.0), "i2t": torch.full((len(owners),), -0.3)}
    plain, corrected = (
        rank_captions(images, texts, caption_images=owners, corrections=corrections, block=7)
        for corrections in (None, constant)
    )
    for direction in plain:
        np.testing.assert_array_equal(plain[direction].ranks, corrected[direction].ranks)


@pytest.mark.usefixtures("counting")
def test_a_correction_that_is_not_a_number_never_scores_well():
    corrections = {"t2i": torch.tensor([0.0, torch.nan, 0.0]), "i2t": torch.zeros(3)}
    ranked = rank_captions(torch.eye(3), torch.eye(3), caption_images=np.arange(3), corrections=corrections)
    assert ranked["t2i"].ranks.tolist() == [2, 3, 2]


@pytest.mark.parametrize("kind", ["normal", "constant", "signs", "whole numbers"])
@pytest.mark.parametrize("most", [0.5, 20.0])
def test_corrected_products_in_float32_are_off_by_less_than_the_slack(kind, most):
    generator = np.random.default_rng(0)
    images, texts = (alike(generator, kind, rows=rows, width=512) for rows in (64, 256))
    corrections = {
        direction: torch.tensor(generator.uniform(-most, most, size=count))
        for direction, count in (("t2i", 64), ("i2t", 256))
    }
    left, right, added = engine._corrected(images, texts, corrections)
    assert most < added <= 2 * most
    product = cpu.Products("cpu")(left[None], right.T[None])[0]
    error = (product.double() - left.double() @ right.double().T).abs().max()
    assert 0 < error < slack(514, added=added)
