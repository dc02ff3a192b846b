import numpy as np
import pytest
import torch

from clipret import FeatureCache
from clipret.cache import open_writer
from clipret.errors import CacheError, UsageError
from clipret.protocols.protocol import split_protocol
from clipret.training import features as module
from clipret.training.features import Features
from clipret.training.pairs import Pairs
from tests.conftest import contents, write_cache


@pytest.fixture
def stored(cache_path):
    cache = FeatureCache(cache_path)
    return cache, Pairs.of(cache, split_protocol(cache, split="train").folds[0])


def make(stored, placement, memory_limit=None):
    cache, pairs = stored
    return Features(cache, pairs, placement=placement, device="cpu", memory_limit=memory_limit)


def plan(pairs, *, runs=2, batches=3):
    generator = torch.Generator().manual_seed(0)

    def places(count):
        return torch.randint(count, (runs, 5), generator=generator)

    return [{"image": places(len(pairs)), "text": places(len(pairs.owners))} for _ in range(batches)]


@pytest.mark.parametrize("placement", ["device", "host", "disk"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_batches_are_the_rows_asked_for_wherever_they_live(tmp_path, placement, dtype):
    cache = FeatureCache(write_cache(tmp_path / "made.h5", contents(dtype=dtype)))
    pairs = Pairs.of(cache, split_protocol(cache, split="train").folds[0])
    asked = plan(pairs)
    features = make((cache, pairs), placement)
    assert features.placement == placement
    count = 0
    for wanted, batch in zip(asked, features.batches(asked), strict=True):
        for side, rows, stored in (
            ("image", pairs.image_rows, cache.image_features),
            ("text", pairs.text_rows, cache.text_features),
        ):
            expected = stored[rows[wanted[side].numpy()].ravel()].astype(np.float32).reshape(2, 5, -1)
            assert batch[side].dtype == torch.float32
            np.testing.assert_array_equal(batch[side].numpy(), expected)
        count += 1
    assert count == 3
    assert list(features.batches([])) == []


@pytest.mark.parametrize("placement", ["device", "host", "disk"])
def test_blocks_are_all_features_in_their_order(stored, placement):
    cache, pairs = stored
    blocks = list(make(stored, placement).blocks("text", block=7))
    assert max(map(len, blocks)) == 7
    np.testing.assert_array_equal(torch.cat(blocks).numpy(), cache.text_features[pairs.text_rows].astype(np.float32))


def test_features_live_where_they_fit(stored, monkeypatch):
    size = make(stored, "device").size
    _, pairs = stored
    assert size == 2 * (len(pairs) * 24 + len(pairs.owners) * 16)
    assert make(stored, "auto").placement == "device"
    assert make(stored, "auto", memory_limit=(size - 1) / (1 << 30)).placement == "disk"
    monkeypatch.setattr(module, "_free_memory", lambda: size)
    assert make(stored, "auto").placement == "disk"


def test_where_memory_is_unknown_the_limit_is_asked_for(stored, monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: None)
    with pytest.raises(UsageError) as caught:
        make(stored, "auto")
    assert str(caught.value) == "this system does not say how much memory it has; give --memory-limit GIB."
    assert make(stored, "auto", memory_limit=1).placement == "device"


def test_features_that_do_not_fit_in_the_requested_place_are_an_error(stored):
    with pytest.raises(UsageError) as caught:
        make(stored, "host", memory_limit=1e-6)
    assert str(caught.value) == (
        "--features is host, but the training features are 0.00 GiB and --memory-limit is 1e-06; give more, or "
        "--features disk."
    )


def test_a_feature_that_is_not_finite_is_found_when_it_is_fetched(tmp_path):
    path, content = tmp_path / "nan.h5", contents()
    with open_writer(path, content) as writer:
        images = np.ones((60, 24), np.float16)
        images[0, 0] = np.nan
        writer.write_images(0, features=images, problems={})
        count = len(content.captions)
        writer.write_texts(0, features=np.ones((count, 16), np.float16), tokens=np.full(count, 3))
    cache = FeatureCache(path)
    pairs = Pairs.of(cache, split_protocol(cache, split="train").folds[0])
    features = make((cache, pairs), "disk")
    asked = [{"image": torch.tensor([[0, 1]]), "text": torch.tensor([[0, 1]])}]
    with pytest.raises(CacheError, match="features of 1 image rows are not finite, the first of row 0"):
        list(features.batches(asked))
