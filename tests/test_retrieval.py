import numpy as np
import pytest
import torch

from clipret.retrieval import rank_both_directions, rank_positives


def naive_ranks(scores, positives):
    """Sort the whole gallery of every query, other items before matching ones of the same score."""
    ranks, offsets = [], [0]
    for row, matching in zip(scores, positives, strict=True):
        order = sorted(range(len(row)), key=lambda item: (-row[item], item in matching))
        ranks += [place for place, item in enumerate(order, 1) if item in matching]
        offsets.append(len(ranks))
    return np.array(ranks), np.array(offsets)


def uneven_captions(generator, images):
    """caption_images of a set whose images carry one to seven captions, in mixed order."""
    return generator.permutation(np.repeat(np.arange(images), generator.integers(1, 8, size=images)))


def tied_unit_vectors(generator, count):
    """Rows of +-1/2: unit vectors whose products are exact multiples of 1/4, so that most scores tie."""
    return torch.tensor(generator.choice([-0.5, 0.5], size=(count, 4)), dtype=torch.float32)


def random_unit_vectors(generator, count):
    return torch.nn.functional.normalize(torch.tensor(generator.normal(size=(count, 6)), dtype=torch.float32), dim=1)


def as_sets(owners, rows):
    return [set(np.flatnonzero(owners == row)) for row in rows]


@pytest.mark.parametrize("block", [1, 7, 512])
@pytest.mark.parametrize("vectors", [tied_unit_vectors, random_unit_vectors])
@pytest.mark.parametrize("seed", range(8))
def test_ranks_equal_a_naive_sort_in_both_directions(seed, vectors, block):
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 40))
    owners = uneven_captions(generator, count)
    images, texts = vectors(generator, count), vectors(generator, len(owners))
    found = rank_both_directions(images, texts, caption_images=owners, block=block)
    scores = (texts.double() @ images.double().T).numpy()
    for direction, matrix, positives in (
        ("t2i", scores, [{owner} for owner in owners]),
        ("i2t", scores.T, as_sets(owners, range(count))),
    ):
        ranks, offsets = naive_ranks(matrix, positives)
        np.testing.assert_array_equal(found[direction].ranks, ranks)
        np.testing.assert_array_equal(found[direction].offsets, offsets)
        assert found[direction].gallery == matrix.shape[1]


def test_an_image_without_caption_is_ranked_but_asks_nothing():
    images = torch.eye(3)
    found = rank_both_directions(images, images[[0, 2]], caption_images=np.array([0, 2]))
    assert found["t2i"].gallery == 3
    assert found["i2t"].queries == 2
    np.testing.assert_array_equal(found["i2t"].ranks, [1, 1])


def test_duplicates_tie_whatever_block_they_fall_in():
    generator = np.random.default_rng(3)
    images = random_unit_vectors(generator, 300)
    images[200:] = images[:100]
    texts = images + 0.1 * random_unit_vectors(generator, 300)
    texts = torch.nn.functional.normalize(texts, dim=1)
    owners = np.arange(300)
    layouts = [rank_both_directions(images, texts, caption_images=owners, block=block) for block in (1, 64, 300)]
    for found in layouts[1:]:
        np.testing.assert_array_equal(found["t2i"].ranks, layouts[0]["t2i"].ranks)
        np.testing.assert_array_equal(found["i2t"].ranks, layouts[0]["i2t"].ranks)
    assert (layouts[0]["t2i"].ranks[:100] >= 2).all()


def test_constant_embeddings_rank_last():
    same = torch.nn.functional.normalize(torch.ones(10, 4), dim=1)
    found = rank_both_directions(same, same, caption_images=np.arange(10))
    assert (found["t2i"].ranks == 10).all()


@pytest.mark.parametrize("side", ["image", "text"])
def test_nan_embeddings_never_score_well(side):
    images, texts = torch.eye(5), torch.eye(5)
    (images if side == "image" else texts)[2] = torch.nan
    found = rank_both_directions(images, texts, caption_images=np.arange(5))
    assert found["t2i"].ranks[2] >= 5
    assert found["i2t"].ranks[2] >= 5


def test_a_query_without_matching_item_is_refused():
    with pytest.raises(ValueError, match="query 1 has no matching item"):
        rank_positives(torch.eye(3), torch.eye(3), pairs=(np.array([0, 2]), np.array([0, 2])))
