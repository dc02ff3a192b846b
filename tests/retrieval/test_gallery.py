"""Embeddings that overflow float32 are reported, and not measured."""

import numpy as np
import pytest
import torch

from clipret import FeatureCache, TrainConfig, train
from clipret.cache import open_writer
from clipret.errors import CacheError, HeadError
from clipret.heads.adapter import AdapterHead
from clipret.heads.linear import LinearHead
from clipret.protocols.protocol import split_protocol
from clipret.retrieval.gallery import Gallery
from tests.conftest import contents


def write(path, *, scale=1.0, row=None, projection=1.0, dtype="float32"):
    """A cache of which the image features, of one row or of all, are so many times as large."""
    cache_contents = contents(dtype=dtype)
    projections = {
        name: values * projection if name == "image/weight" else values
        for name, values in cache_contents.projections.items()
    }
    cache_contents = contents(dtype=dtype, projections=projections)
    images = np.random.default_rng(0).normal(size=(60, 24))
    images[slice(None) if row is None else row] *= scale
    texts = np.random.default_rng(1).normal(size=(len(cache_contents.captions), 16))
    with open_writer(path, cache_contents) as writer:
        writer.write_images(0, features=images, problems={})
        writer.write_texts(0, features=texts, tokens=np.full(len(texts), 3))
    return path


def gallery(path):
    cache = FeatureCache(path)
    (fold,) = split_protocol(cache, split="val").folds
    return cache, fold, Gallery.read(cache, fold)


@pytest.mark.parametrize(("scale", "row"), [(1e30, None), (1e30, 8), (1e-30, 8), (np.inf, 8)])
def test_features_that_overflow_are_refused_with_their_row(scale, row, tmp_path):
    path = write(tmp_path / "made.h5", scale=scale, row=row)
    count = 12 if row is None else 1
    with pytest.raises(CacheError) as caught:
        gallery(path)
    first = 3 if row is None else row
    kind = "not finite" if scale == np.inf else "too large or too small to compute with in float32"
    assert str(caught.value) == (
        f"{path}: features of {count} image rows are {kind}, the first of row {first}; the cache is damaged: delete it "
        f"and extract again with: clipret extract --dataset made"
    )


def test_features_of_any_usual_size_and_zeros_are_measured(tmp_path):
    for number, scale in enumerate((1e-6, 1.0, 1e6)):
        cache, _, whole = gallery(write(tmp_path / f"{number}.h5", scale=scale))
        assert whole.measure(LinearHead(cache.projections), device="cpu")
    cache, _, whole = gallery(write(tmp_path / "zero.h5", scale=0.0, row=8))
    assert whole.measure(LinearHead(cache.projections), device="cpu")


def test_a_head_that_overflows_is_refused_with_the_row(tmp_path):
    cache, fold, whole = gallery(write(tmp_path / "made.h5", scale=1e13, row=8))
    head = LinearHead({**cache.projections, "image/weight": cache.projections["image/weight"] * 1e8})
    with pytest.raises(HeadError) as caught:
        whole.measure(head, device="cpu")
    assert 8 in fold.image_rows
    assert str(caught.value).startswith(
        "the embedding of image row 8 overflows or underflows in float32: its features, or the head's weights, are too "
        "large or too small (up to "
    )


def test_a_large_gallery_is_looked_at_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr("clipret.retrieval.gallery._HELD_BYTES", 0)
    monkeypatch.setattr("clipret.retrieval.gallery._BLOCK", 5)
    cache, _, whole = gallery(write(tmp_path / "made.h5", scale=1e13, row=8))
    head = LinearHead({**cache.projections, "image/weight": cache.projections["image/weight"] * 1e8})
    with pytest.raises(HeadError, match="the embedding of image row 8 overflows or underflows"):
        whole.measure(head, device="cpu")


def test_an_adapter_that_is_zero_by_itself_is_measured(tmp_path):
    cache, _, whole = gallery(write(tmp_path / "made.h5"))
    width = cache.projections["text/weight"].shape[1]
    added = {"image_down": torch.ones(width, 4), "image_up": torch.zeros(4, width)}
    assert whole.measure(AdapterHead({**cache.projections, **added}, ratio=1.0), device="cpu")


def test_training_on_a_projection_that_overflows_is_one_line(tmp_path):
    path = write(tmp_path / "made.h5", scale=1e12, projection=1e12)
    with pytest.raises(HeadError, match="the embedding of image row 3 overflows or underflows in float32"):
        train(TrainConfig(path, runs_dir=tmp_path / "runs"))
