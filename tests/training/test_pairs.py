import numpy as np
import pytest
import torch

from clipret import FeatureCache, TrainConfig
from clipret.protocols.protocol import split_protocol
from clipret.training.batches import plan_epoch
from clipret.training.pairs import Pairs
from tests.conftest import contents, write_cache


def pairs_of(path):
    cache = FeatureCache(path)
    return cache, Pairs.of(cache, split_protocol(cache, split="train").folds[0])


def pairs_with(tmp_path, captions, owners, images=None):
    images = images or max(owners) + 1
    splits = np.zeros(images, np.uint8)
    content = contents(images=images, captions=captions, caption_images=np.array(owners), image_splits=splits)
    return pairs_of(write_cache(tmp_path / "made.h5", content))


def matches(pairs, texts, image, caption) -> bool:
    """Whether the image has a caption with that text, by a plain loop."""
    own = [texts[place] for place in range(len(texts)) if pairs.owners[place] == image]
    return texts[caption] in own


def test_captions_are_drawn_uniformly_from_the_images_own(cache_path):
    cache, pairs = pairs_of(cache_path)
    owners = cache.caption_images[cache.image_splits[cache.caption_images] == 0]
    rows, drawn = np.flatnonzero(cache.image_splits == 0), np.zeros(len(owners))
    for epoch in range(3000):
        order, captions = pairs.draw(0, epoch)
        assert sorted(order.tolist()) == list(range(len(pairs)))
        np.testing.assert_array_equal(owners[captions], rows[order])
        drawn[captions] += 1
    expected = 3000 / pairs.counts.numpy().repeat(pairs.counts.numpy())
    np.testing.assert_allclose(drawn, expected, rtol=0.15)


def test_a_draw_depends_on_seed_and_epoch_alone(cache_path):
    _, pairs = pairs_of(cache_path)
    first, same, other_epoch, other_seed = (pairs.draw(*which)[0] for which in ((1, 2), (1, 2), (1, 3), (2, 2)))
    assert torch.equal(first, same)
    assert not torch.equal(first, other_epoch)
    assert not torch.equal(first, other_seed)


def test_captions_in_mixed_order_stay_with_their_image(tmp_path):
    owners = np.random.default_rng(1).permutation(np.repeat(np.arange(20), 3))
    cache, pairs = pairs_with(tmp_path, [str(number) for number in range(60)], owners)
    for place in range(60):
        assert owners[pairs.text_rows[place]] == pairs.image_rows[pairs.owners[place]]
    assert pairs.captions_of(torch.tensor([3, 0])).tolist() == [9, 10, 11, 0, 1, 2]
    assert cache.image_ids[pairs.image_rows[3]] == "103"


def test_an_image_without_captions_is_left_out(tmp_path):
    _, pairs = pairs_with(tmp_path, ["a", "b", "c"], [0, 2, 2], images=10)
    assert len(pairs) == 2
    assert pairs.image_rows.tolist() == [0, 2]


@pytest.mark.parametrize("aligned", [True, False])
def test_what_matches_is_what_a_double_loop_finds(tmp_path, aligned):
    """Random captions from few words, so that texts repeat within an image and between images."""
    generator = np.random.default_rng(0)
    counts = generator.integers(1, 5, size=30)
    texts = [f"word {word}" for word in generator.integers(0, 25, size=counts.sum())]
    _, pairs = pairs_with(tmp_path, texts, np.repeat(np.arange(30), counts).tolist())
    for seed in range(5):
        if aligned:
            drawn = [pairs.draw(seed, epoch) for epoch in range(3)]
            images, captions = (torch.stack([draw[part][:12] for draw in drawn]) for part in (0, 1))
        else:
            images = torch.from_numpy(generator.integers(0, 30, size=(3, 9)))
            captions = torch.from_numpy(generator.integers(0, len(texts), size=(3, 14)))
        for rows in (slice(None), slice(2, 5)):
            mask = pairs.matching(images, captions, rows=rows, aligned=aligned).expand(3, -1, -1)
            for run in range(3):
                expected = [
                    [matches(pairs, texts, image, caption) for image in images[run].tolist()]
                    for caption in captions[run, rows].tolist()
                ]
                assert mask[run].tolist() == expected


def test_texts_are_the_same_as_clip_reads_them(tmp_path):
    _, pairs = pairs_with(tmp_path, ["A dog", "a  dog ", "a cat", "a\tcat.", "ein Ü", "EIN ü"], list(range(6)))
    assert (pairs.text_groups >= 0).tolist() == [True, True, False, False, False, False]


def test_batches_cover_every_image_once_in_nearly_equal_sizes(cache_path):
    _, pairs = pairs_of(cache_path)
    config = TrainConfig(cache_path, batch_size=35)  # 36 images: 35 and 1, if it were not for the even cut
    batches = plan_epoch(pairs, [config], epoch=1)
    assert [batch.images.shape for batch in batches] == [(1, 18), (1, 18)]
    assert sorted(torch.cat([batch.images[0] for batch in batches]).tolist()) == list(range(36))
    assert all(torch.equal(batch.matching(slice(None), device="cpu")[0], torch.eye(18)) for batch in batches)


def test_all_captions_of_a_batchs_images_come_once(cache_path):
    _, pairs = pairs_of(cache_path)
    config = TrainConfig(cache_path, batch_size=10, captions_per_step="all")
    batches = plan_epoch(pairs, [config], epoch=1)
    seen = torch.cat([batch.captions[0] for batch in batches])
    assert sorted(seen.tolist()) == list(range(len(pairs.owners)))
    for batch in batches:
        owners = pairs.owners[batch.captions[0]]
        expected = owners[:, None] == batch.images[0]
        assert torch.equal(batch.matching(slice(None), device="cpu")[0], expected)
        assert expected.any(1).all()


def test_runs_of_a_stack_draw_each_its_own(cache_path):
    _, pairs = pairs_of(cache_path)
    configs = [TrainConfig(cache_path, batch_size=12, seed=seed) for seed in (4, 5)]
    together = plan_epoch(pairs, configs, epoch=3)
    for run, config in enumerate(configs):
        for batch, alone in zip(together, plan_epoch(pairs, [config], epoch=3), strict=True):
            assert torch.equal(batch.images[run], alone.images[0])
            assert torch.equal(batch.captions[run], alone.captions[0])


def test_batches_without_negatives_are_counted(tmp_path):
    _, pairs = pairs_with(tmp_path, ["a", "a", "b"], [0, 1, 2])
    for size, expected in ((1, 3), (3, 0)):
        batches = plan_epoch(pairs, [TrainConfig("x.h5", batch_size=size)], epoch=1)
        assert sum(batch.without_negatives for batch in batches) == expected
