"""Features of a cache, whole and by split, for people's own code."""

import numpy as np
import pytest
import torch

from clipret import FeatureCache
from clipret.cache.selecting import FeatureArray
from clipret.config import SPLITS
from clipret.errors import CacheError, UsageError
from tests.conftest import contents, write_cache


def splits(*runs):
    return np.repeat([SPLITS.index(name) for name, _ in runs], [count for _, count in runs]).astype(np.uint8)


def test_a_whole_side_is_a_map_of_the_file(cache_path):
    cache = FeatureCache(cache_path)
    for side, mapped in (("image", cache.image_features), ("text", cache.text_features)):
        features = cache.features(side)
        assert isinstance(features, np.memmap)
        assert np.shares_memory(features, mapped)
        assert not features.flags.writeable
        np.testing.assert_array_equal(features, mapped)


def test_a_split_of_consecutive_rows_is_a_map_and_a_mixed_one_is_read(tmp_path):
    order = splits(("train", 30), ("val", 10), ("test", 15), ("val", 5))
    cache = FeatureCache(write_cache(tmp_path / "made.h5", contents(images=60, image_splits=order)))
    train, val = (cache.features("image", split=name) for name in ("train", "val"))
    assert np.shares_memory(train, cache.image_features)
    np.testing.assert_array_equal(train, cache.image_features[:30])
    assert not np.shares_memory(val, cache.image_features)
    np.testing.assert_array_equal(val, cache.image_features[np.flatnonzero(order == SPLITS.index("val"))])
    for side in ("image", "text"):
        for split in ("train", "val", "test"):
            rows = cache.rows(side, split=split)
            mine = order if side == "image" else order[cache.caption_images]
            np.testing.assert_array_equal(rows, np.flatnonzero(mine == SPLITS.index(split)))
            np.testing.assert_array_equal(cache.features(side, split=split), cache.features(side)[rows])
    assert cache.features("image", split="restval").shape == (0, 24)


def test_tensors_have_the_type_of_the_cache_and_can_be_written_to(tmp_path):
    order = splits(("train", 30), ("val", 1), ("train", 29))
    cache = FeatureCache(write_cache(tmp_path / "made.h5", contents(images=60, image_splits=order)))
    for features in (cache.features("image"), cache.features("image", split="train")):
        tensor = features.torch()
        assert tensor.dtype == torch.float16
        np.testing.assert_array_equal(tensor.numpy(), features)
        tensor.zero_()
    assert np.abs(cache.features("image")).max() > 0


def test_what_is_computed_of_features_is_a_plain_array(cache_path):
    features = FeatureCache(cache_path).features("image")
    assert type(features) is FeatureArray
    assert type(features * 2) is type(features @ np.ones((24, 2), np.float16)) is np.ndarray
    assert np.isscalar(features.sum())


def test_a_mixed_split_is_compared_with_its_checksums(tmp_path):
    order = splits(("train", 3), ("val", 1), ("train", 56))
    path = write_cache(tmp_path / "made.h5", contents(images=60, image_splits=order))
    cache = FeatureCache(path)
    offset = cache.image_features.offset
    with path.open("r+b") as file:
        file.seek(offset + 5)
        file.write(b"\x55")
    with pytest.raises(CacheError, match="row"):
        cache.features("image", split="train")


def test_other_words_are_refused(cache_path):
    cache = FeatureCache(cache_path)
    with pytest.raises(UsageError, match="split is 'dev'; expected one of: train, val, test, restval"):
        cache.features("image", split="dev")
    with pytest.raises(UsageError, match="side is 'images'; expected one of: image, text"):
        cache.rows("images")
