"""Initial heads: closed forms against plain solutions, and random initialisation."""

import h5py
import numpy as np
import pytest
import torch

from clipret.cache import FeatureCache
from clipret.config import TrainConfig
from clipret.errors import CacheError
from clipret.heads.linear import LinearHead
from clipret.protocols.protocol import split_protocol
from clipret.retrieval import closed_form
from clipret.retrieval.gallery import Gallery
from clipret.retrieval.metrics import rsum
from clipret.training import starting as initial
from clipret.training.starting import build_head, initial_tensors
from tests.conftest import contents, write_cache
from tests.helpers.adapters import adapter


@pytest.fixture(params=[False, True], ids=["without bias", "with bias"])
def cache(request, tmp_path):
    return FeatureCache(write_cache(tmp_path / "made.h5", contents(bias=request.param)))


def started(cache, **settings):
    return initial_tensors(TrainConfig(cache=cache.path, **settings), cache)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def training_pairs(cache):
    """Features of all training pairs and CLIP's outputs for them, (P, D_i), (P, D_t), (P, E), (P, E), by a loop."""
    images, texts = [], []
    for row, image in enumerate(cache.caption_images):
        if cache.image_splits[image] == 0:
            images.append(cache.image_features[image].astype(np.float64))
            texts.append(cache.text_features[row].astype(np.float64))
    images, texts = np.stack(images), np.stack(texts)
    clip_images = images @ cache.projections["image/weight"] + cache.projections.get("image/bias", 0)
    clip_texts = texts @ cache.projections["text/weight"] + cache.projections.get("text/bias", 0)
    return images, texts, clip_images, clip_texts


@pytest.mark.parametrize("block", [5, 16_384])
def test_procrustes_is_the_polar_factor_of_the_pairs_cross_product(cache, block, monkeypatch):
    monkeypatch.setattr(closed_form, "_BLOCK", block)
    _, _, images, texts = training_pairs(cache)
    cross = unit(images).T @ unit(texts)
    values, vectors = np.linalg.eigh(cross.T @ cross)
    expected = cross @ vectors @ np.diag(values**-0.5) @ vectors.T
    np.testing.assert_allclose(closed_form.fit_procrustes(cache, cache.projections), expected, atol=1e-5)


def test_no_other_rotation_brings_the_pairs_nearer_than_procrustes(cache):
    _, _, images, texts = training_pairs(cache)
    rotation = closed_form.fit_procrustes(cache, cache.projections)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(12), atol=1e-12)
    best = np.linalg.norm(unit(images) @ rotation - unit(texts))
    generator = np.random.default_rng(0)
    for size in (1e-3, 1e-2, 1.0):
        nearby, _ = np.linalg.qr(rotation + size * generator.normal(size=rotation.shape))
        nearby *= np.sign(np.sum(nearby * rotation, axis=0))
        assert np.linalg.norm(unit(images) @ nearby - unit(texts)) > best


def test_procrustes_on_either_side_gives_the_same_similarities(cache):
    features = [torch.from_numpy(array[:7].astype(np.float32)) for array in (cache.image_features, cache.text_features)]
    similarities = []
    for train in ("both", "image", "text"):
        head = LinearHead(started(cache, init="procrustes", train=train))
        similarities.append(head.embed_images(features[0]) @ head.embed_texts(features[1]).T)
    torch.testing.assert_close(similarities[0], similarities[1])
    torch.testing.assert_close(similarities[0], similarities[2])
    clip, turned = started(cache), started(cache, init="procrustes", train="text")
    assert torch.equal(turned["image_weight"], clip["image_weight"])
    assert not torch.equal(turned["text_weight"], clip["text_weight"])


@pytest.mark.parametrize("strength", [1e-3, 0.3, 10.0])
@pytest.mark.parametrize("block", [5, 16_384])
def test_ridge_equals_least_squares_on_the_augmented_system(cache, strength, block, monkeypatch):
    monkeypatch.setattr(closed_form, "_BLOCK", block)
    images, texts, clip_images, clip_texts = training_pairs(cache)
    weights = {side: cache.projections[f"{side}/weight"].astype(np.float64) for side in ("image", "text")}
    if "image/bias" in cache.projections:
        images, texts = (np.hstack([rows, np.ones((len(rows), 1))]) for rows in (images, texts))
        for side in weights:
            weights[side] = np.vstack([weights[side], cache.projections[f"{side}/bias"]])
    tensors = started(cache, init="ridge", ridge=strength)
    for side, rows, own, other in (
        ("image", images, clip_images, clip_texts),
        ("text", texts, clip_texts, clip_images),
    ):
        pull = np.sqrt(strength * np.mean(np.sum(rows**2, axis=0))) * np.eye(rows.shape[1])
        targets = unit(other) * np.linalg.norm(own, axis=1).mean()
        expected, *_ = np.linalg.lstsq(np.vstack([rows, pull]), np.vstack([targets, pull @ weights[side]]), rcond=None)
        solved = tensors[f"{side}_weight"]
        if len(expected) > len(solved):
            solved = torch.vstack([solved, tensors[f"{side}_bias"]])
        np.testing.assert_allclose(solved.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_ridge_ever_stronger_ends_at_zero_shot(cache):
    clip = started(cache)
    features = torch.from_numpy(cache.image_features[:9].astype(np.float32))
    zero_shot = LinearHead(clip).embed_images(features).detach()
    distances = []
    for strength in (1.0, 1e2, 1e4, 1e6):
        head = LinearHead(started(cache, init="ridge", ridge=strength))
        distances.append(float((head.embed_images(features).detach() - zero_shot).norm()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-4
    (solver,) = closed_form.fit_ridge(cache, cache.projections, sides=("text",)).values()
    start = [
        cache.projections["text/weight"],
        *([cache.projections["text/bias"]] if "text/bias" in cache.projections else []),
    ]
    assert np.array_equal(solver.solve(float("inf")), np.vstack(start).astype(np.float64))


@pytest.mark.parametrize("init", ["procrustes", "ridge", "random"])
@pytest.mark.parametrize(("train", "frozen"), [("image", "text"), ("text", "image")])
def test_the_side_that_does_not_learn_stays_clips(cache, init, train, frozen):
    clip, tensors = started(cache), started(cache, init=init, train=train)
    assert list(tensors) == list(clip)
    for name in tensors:
        assert torch.equal(tensors[name], clip[name]) == name.startswith(frozen)
        assert tensors[name].dtype == torch.float32


def score(cache, tensors):
    (fold,) = split_protocol(cache, split="val").folds
    return rsum(Gallery.read(cache, fold).measure(LinearHead(tensors), device="cpu"))


def assert_ridge_auto_is_the_best_on_val(cache):
    """Ties go to the strongest, which is the first; infinity is CLIP's own head."""
    heads = {ridge: started(cache, init="ridge", ridge=ridge) for ridge in initial.RIDGE_STRENGTHS[1:]}
    heads = {float("inf"): started(cache), **heads}
    scores = {strength: score(cache, tensors) for strength, tensors in heads.items()}
    best = max(strength for strength in scores if scores[strength] == max(scores.values()))
    assert len(set(scores.values())) > 1
    for name, tensor in started(cache, init="ridge").items():
        torch.testing.assert_close(tensor, heads[best][name], rtol=0, atol=0)
    return best


def test_ridge_auto_is_the_best_on_val_and_of_equal_ones_the_strongest(cache):
    assert_ridge_auto_is_the_best_on_val(cache)


def test_ridge_auto_without_val_is_of_strength_one(tmp_path):
    cache = FeatureCache(write_cache(tmp_path / "made.h5", contents(image_splits=np.zeros(60, dtype=np.uint8))))
    for name, tensor in started(cache, init="ridge", ridge=1.0).items():
        assert torch.equal(tensor, started(cache, init="ridge")[name])


def test_the_strength_is_the_best_on_the_whole_of_a_large_val(tmp_path, monkeypatch):
    """Of 1,600 images: on 1,000 of them, evenly spaced, 1.9 is best."""
    monkeypatch.setattr(initial, "RIDGE_STRENGTHS", (float("inf"), 2.0, 1.9, 1.8))
    splits = np.resize(np.array([0, 1, 1, 1, 1], dtype=np.uint8), 2000)
    cache = FeatureCache(write_cache(tmp_path / "large.h5", contents(images=2000, image_splits=splits)))
    assert assert_ridge_auto_is_the_best_on_val(cache) == 2.0


def test_a_solution_is_found_once_a_cache_and_nobodys_changes_reach_it(cache, monkeypatch):
    first = started(cache, init="ridge", ridge=1.0)
    expected = {name: tensor.clone() for name, tensor in first.items()}
    for tensor in first.values():
        tensor.zero_()
    monkeypatch.setattr(initial, "fit_ridge", None)
    again = started(cache, init="ridge", ridge=1.0, seed=5)
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_a_cache_with_broken_training_features_is_refused(cache):
    with h5py.File(cache.path, "r+") as file:
        file["text/features"][0, 0] = np.nan
    with pytest.raises(CacheError, match="1 text rows are not what was written to them: 0; the file is damaged"):
        started(cache, init="procrustes")


def test_a_random_start_has_clips_own_spread_and_no_bias(tmp_path):
    content = contents(dims=(400, 100, 300), bias=True)
    cache = FeatureCache(write_cache(tmp_path / "made.h5", content))
    tensors = started(cache, init="random")
    for side, width in (("image", 400), ("text", 100)):
        assert float(tensors[f"{side}_weight"].std()) == pytest.approx(width**-0.5, rel=0.02)
        assert abs(float(tensors[f"{side}_weight"].mean())) < 0.03 * width**-0.5
        assert torch.equal(tensors[f"{side}_bias"], torch.zeros(300))


@pytest.mark.parametrize("head", ["linear", "mlp", "gated"])
@pytest.mark.parametrize("train", ["both", "image", "text"])
def test_a_bias_is_zero_at_the_start_and_zero_shot_stays_to_the_bit(tmp_path, head, train):
    cache = FeatureCache(write_cache(tmp_path / "plain.h5", contents()))
    config = TrainConfig(cache=cache.path, head=head, train=train, bias=True)
    tensors = initial_tensors(config, cache)
    sides = ("image", "text") if train == "both" else (train,)
    assert {name for name in tensors if name.endswith("_bias")} == {f"{side}_bias" for side in sides}
    assert all(torch.equal(tensors[f"{side}_bias"], torch.zeros(12)) for side in sides)
    ours, zero_shot = build_head(config, tensors), LinearHead(cache.projections)
    for method, features in (("embed_images", cache.image_features), ("embed_texts", cache.text_features)):
        rows = torch.tensor(features[:]).float()
        assert torch.equal(getattr(ours, method)(rows), getattr(zero_shot, method)(rows))


def test_an_encoders_own_bias_is_what_a_bias_starts_at(tmp_path):
    cache = FeatureCache(write_cache(tmp_path / "biased.h5", contents(bias=True)))
    plain, biased = (started(cache, bias=bias) for bias in (False, True))
    assert plain.keys() == biased.keys()
    assert all(torch.equal(plain[name], biased[name]) for name in plain)


def test_a_bias_changes_nothing_of_what_is_drawn_at_random(tmp_path):
    cache = FeatureCache(write_cache(tmp_path / "plain.h5", contents()))
    for changes in ({}, {"head": "gated"}):
        plain, biased = (started(cache, init="random", bias=bias, **changes) for bias in (False, True))
        assert biased.keys() - plain.keys() == {"image_bias", "text_bias"}
        assert all(torch.equal(plain[name], biased[name]) for name in plain)


@pytest.mark.parametrize("settings", [{"init": "random"}, {"head": "adapter"}, {"head": "adapter", "init": "random"}])
def test_the_seed_decides_every_bit_of_what_is_drawn_and_a_side_is_the_same_alone(cache, settings):
    both, again, other = (started(cache, seed=seed, **settings) for seed in (3, 3, 4))
    drawn = "down" if "head" in settings else "weight"
    assert all(torch.equal(both[name], again[name]) for name in both)
    for side in ("image", "text"):
        alone = started(cache, seed=3, train=side, **settings)
        assert not torch.equal(both[f"{side}_{drawn}"], other[f"{side}_{drawn}"])
        assert torch.equal(both[f"{side}_{drawn}"], alone[f"{side}_{drawn}"])


def test_an_adapter_starts_as_clip_with_a_random_down_and_a_zero_up(cache):
    tensors, clip = started(cache, head="adapter", adapter_reduction=3), started(cache)
    for side in ("image", "text"):
        down, up = tensors[f"{side}_down"], tensors[f"{side}_up"]
        assert (tuple(down.shape), tuple(up.shape)) == ((12, 4), (4, 12))
        assert 0.8 * 12**-0.5 < float(down.abs().max()) <= 12**-0.5
        assert not up.any()
    assert all(torch.equal(tensors[name], clip[name]) for name in clip)
    config = TrainConfig(cache=cache.path, head="adapter")
    head, features = build_head(config, started(cache, head="adapter")), torch.randn(5, 16)
    torch.testing.assert_close(head.embed_texts(features), LinearHead(clip).embed_texts(features))


def test_a_random_adapter_has_a_random_up_by_its_own_width(cache):
    tensors = started(cache, head="adapter", init="random", adapter_reduction=3)
    assert 0.8 * 4**-0.5 < float(tensors["image_up"].abs().max()) <= 4**-0.5
    assert torch.equal(tensors["image_down"], started(cache, head="adapter", adapter_reduction=3)["image_down"])


def test_a_bottleneck_is_never_narrower_than_one(cache):
    assert tuple(started(cache, head="adapter", adapter_reduction=99)["image_down"].shape) == (12, 1)


def test_an_adapter_on_one_side_has_tensors_of_that_side_only(cache):
    tensors = started(cache, head="adapter", train="text")
    assert set(tensors) - set(started(cache)) == {"text_down", "text_up"}


@pytest.mark.parametrize("kind", ["linear", "adapter"])
def test_a_built_head_shares_the_tensors_that_it_is_built_of(kind):
    projections = contents(bias=True).projections
    tensors = {name: tensor.clone() for name, tensor in adapter(projections).tensors.items()}
    head = build_head(TrainConfig(cache="made.h5", head=kind, adapter_ratio=0.4, adapter_relu=False), tensors)
    features = torch.randn(3, 24)
    before = head.embed_images(features)
    tensors["image_weight"][0] += 1
    assert not torch.allclose(head.embed_images(features), before)
    assert not before.requires_grad
    assert all(tensor.data_ptr() == tensors[name].data_ptr() for name, tensor in head.tensors.items())
    if kind == "adapter":
        assert (head.ratio, head.relu) == (0.4, False)
