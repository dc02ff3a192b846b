import numpy as np
import torch
from torch import nn

from clipret import FeatureCache, TrainConfig
from clipret.protocols.protocol import split_protocol
from clipret.training import mining
from clipret.training.batches import plan_epoch
from clipret.training.features import Features
from clipret.training.mining import find_companions
from clipret.training.pairs import Pairs
from tests.conftest import contents, write_cache

IMAGES, COUNT = 25, 3


class Head(nn.Module):
    """Two random projections."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = [torch.randn(width, 12, generator=generator) for width in (24, 16)]

    def embed_images(self, features):
        return nn.functional.normalize(features @ self.weights[0], dim=1)

    def embed_texts(self, features):
        return nn.functional.normalize(features @ self.weights[1], dim=1)


def setting(tmp_path):
    generator = np.random.default_rng(3)
    counts = generator.integers(1, 4, size=IMAGES)
    texts = [f"word {word}" for word in generator.integers(0, 18, size=counts.sum())]
    splits, owners = np.zeros(IMAGES, np.uint8), np.repeat(np.arange(IMAGES), counts)
    content = contents(images=IMAGES, captions=texts, caption_images=owners, image_splits=splits)
    cache = FeatureCache(write_cache(tmp_path / "made.h5", content))
    pairs = Pairs.of(cache, split_protocol(cache, split="train").folds[0])
    return cache, pairs, Features(cache, pairs, placement="device", device="cpu", memory_limit=None), texts


def test_companions_are_the_hardest_that_a_full_sort_finds(tmp_path, monkeypatch):
    cache, pairs, features, texts = setting(tmp_path)
    monkeypatch.setattr(mining, "_BLOCK_BYTES", 4 * 60 * 4)  # four rows of scores a block
    head, drawn = Head(), pairs.draw(0, 1)
    nearest = find_companions(head, features, pairs, count=COUNT, drawn=drawn)
    images = head.embed_images(torch.tensor(cache.image_features[:]).float())
    captions = head.embed_texts(torch.tensor(cache.text_features[:]).float())
    scores = captions @ images.T
    own = [{texts[place] for place in range(len(texts)) if pairs.owners[place] == image} for image in range(IMAGES)]
    for image, caption in zip(*(part.tolist() for part in drawn), strict=True):
        assert nearest["captions"][image] == caption
        others = [other for other in range(IMAGES) if texts[caption] not in own[other]]
        hardest = sorted(others, key=lambda other: -scores[caption, other])[:COUNT]
        assert nearest["images"][image].tolist() == hardest
        strangers = [place for place in range(len(texts)) if texts[place] not in own[image]]
        hardest = sorted(strangers, key=lambda place: -scores[place, image])[:COUNT]
        assert nearest["texts"][image].tolist() == hardest


def test_each_item_gets_its_hardest_negatives_in_addition_to_its_batch(tmp_path):
    _, pairs, features, _ = setting(tmp_path)
    config = TrainConfig("x.h5", batch_size=6, hard_negatives=COUNT)
    nearest = find_companions(Head(), features, pairs, count=COUNT, drawn=pairs.draw(0, 1))
    for batch in plan_epoch(pairs, [config], epoch=1, companions=[nearest]):
        size = batch.images.shape[1] // (1 + 2 * COUNT)
        assert batch.images.shape == batch.captions.shape == (1, size * (1 + 2 * COUNT))
        for image in batch.images[0, :size].tolist():
            assert set(nearest["images"][image].tolist()) <= set(batch.images[0].tolist())
            assert set(nearest["texts"][image].tolist()) <= set(batch.captions[0].tolist())
        mask = batch.matching(slice(None), device="cpu")[0].bool()
        assert mask.diagonal().all()
        assert torch.equal(mask, mask | (pairs.owners[batch.captions[0]][:, None] == batch.images[0]))


def test_with_too_few_negatives_the_nearest_items_fill_the_rest(tmp_path):
    content = contents(images=2, captions=["a", "b"], caption_images=np.arange(2), image_splits=np.zeros(2, np.uint8))
    cache = FeatureCache(write_cache(tmp_path / "two.h5", content))
    pairs = Pairs.of(cache, split_protocol(cache, split="train").folds[0])
    features = Features(cache, pairs, placement="device", device="cpu", memory_limit=None)
    nearest = find_companions(Head(), features, pairs, count=5, drawn=pairs.draw(0, 1))
    assert nearest["images"].tolist() == [[1, 0], [0, 1]]
