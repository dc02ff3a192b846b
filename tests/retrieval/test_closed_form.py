"""Canonical correlation analysis against a plain implementation over all pairs. The others: training/test_starting."""

import numpy as np
import pytest
import scipy.linalg

from clipret.cache import FeatureCache
from clipret.retrieval import closed_form
from clipret.retrieval.closed_form import fit_cca
from tests.helpers.pair_caches import splits, write_pair_cache


def pairs_of(cache):
    """(P, D_i) and (P, D_t) float64, features of every training caption and of its image, by a loop."""
    images, texts = [], []
    for row, image in enumerate(cache.caption_images):
        if cache.image_splits[image] == 0:
            images.append(cache.image_features[image].astype(np.float64))
            texts.append(cache.text_features[row].astype(np.float64))
    return np.stack(images), np.stack(texts)


def plain_cca(images, texts, *, strength):
    """Weights and biases of both sides, and the correlations, as textbooks have them: inverse square roots by scipy."""
    means = [rows.mean(axis=0) for rows in (images, texts)]
    centred = [rows - mean for rows, mean in zip((images, texts), means, strict=True)]
    white = []
    for rows in centred:
        covariance = rows.T @ rows / len(rows)
        covariance += strength * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        white.append(np.linalg.inv(scipy.linalg.sqrtm(covariance).real))
    cross = centred[0].T @ centred[1] / len(images)
    left, correlations, right = scipy.linalg.svd(white[0] @ cross @ white[1], full_matrices=False)
    weights = [white[0] @ left * correlations, white[1] @ right.T * correlations]
    return weights, [-mean @ weight for mean, weight in zip(means, weights, strict=True)], correlations


def cache_of(tmp_path, **changes):
    return FeatureCache(write_pair_cache(tmp_path / "pair.h5", **changes))


@pytest.mark.parametrize("strength", [3.0, 0.1, 0.001])
@pytest.mark.parametrize("widths", [(24, 16), (7, 31), (13, 13), (1, 5), (90, 3)])
def test_solutions_are_those_of_a_plain_implementation(tmp_path, widths, strength):
    cache = cache_of(tmp_path, widths=widths)
    images, texts = pairs_of(cache)
    solved = fit_cca(cache).solve(strength)
    weights, biases, _ = plain_cca(images, texts, strength=strength)
    width = min(widths)
    assert {name: values.shape for name, values in solved.items()} == {
        "image/weight": (widths[0], width),
        "text/weight": (widths[1], width),
        "image/bias": (width,),
        "text/bias": (width,),
    }
    # Each direction has a sign of its own, that of both sides together.
    expected = (images @ weights[0] + biases[0]) * (texts @ weights[1] + biases[1])
    ours = (images @ solved["image/weight"] + solved["image/bias"]) * (
        texts @ solved["text/weight"] + solved["text/bias"]
    )
    np.testing.assert_allclose(ours, expected, atol=2e-5 * np.abs(expected).max())
    for side, weight in zip(("image", "text"), weights, strict=True):
        np.testing.assert_allclose(
            np.abs(solved[f"{side}/weight"]), np.abs(weight), rtol=0.02, atol=1e-4 * np.abs(weight).max()
        )


def test_an_image_counts_once_for_each_of_its_captions(tmp_path):
    cache = cache_of(tmp_path, images=40)
    counts = np.bincount(cache.caption_images, minlength=40)
    assert counts.min() < counts.max()
    images, texts = pairs_of(cache)
    (weight, _), _, _ = plain_cca(images, texts, strength=0.1)
    once, first = np.unique(cache.caption_images[cache.image_splits[cache.caption_images] == 0], return_index=True)
    assert len(once) < len(images)
    (other, _), _, _ = plain_cca(images[first], texts[first], strength=0.1)
    ours = np.abs(fit_cca(cache).solve(0.1)["image/weight"])
    assert np.abs(ours - np.abs(weight)).max() < 1e-4 * np.abs(weight).max()
    assert np.abs(ours - np.abs(other)).max() > 1e-2 * np.abs(weight).max()


@pytest.mark.parametrize("block", [1, 5, 16_384])
def test_blocks_make_no_difference(tmp_path, block, monkeypatch):
    cache = cache_of(tmp_path)
    expected = fit_cca(cache).solve(0.1)
    monkeypatch.setattr(closed_form, "_BLOCK", block)
    for name, values in fit_cca(cache).solve(0.1).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("widths", [(60, 50), (50, 60)])
def test_fewer_pairs_than_widths_have_a_solution(tmp_path, widths):
    """Covariances short of their full rank: what they have no variance in is left alone by the regularisation."""
    cache = cache_of(tmp_path, images=12, widths=widths, image_splits=splits(12, 0, 0, 1, 2))
    images, texts = pairs_of(cache)
    assert len(images) < min(widths)
    solved = fit_cca(cache).solve(0.01)
    assert all(np.isfinite(values).all() for values in solved.values())
    weights, biases, correlations = plain_cca(images, texts, strength=0.01)
    rank = int((correlations > 1e-6).sum())
    assert rank < min(widths)
    ours = (images @ solved["image/weight"] + solved["image/bias"]) @ (
        texts @ solved["text/weight"] + solved["text/bias"]
    ).T
    expected = (images @ weights[0] + biases[0]) @ (texts @ weights[1] + biases[1]).T
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


def test_a_side_that_never_varies_has_a_solution_without_directions(tmp_path):
    from clipret.cache import open_writer
    from tests.conftest import digests_of
    from tests.helpers.pair_caches import pair_contents

    made = pair_contents()
    with open_writer(tmp_path / "flat.h5", made) as writer:
        generator = np.random.default_rng(0)
        images = generator.normal(size=(60, 24)).astype(np.float32)
        texts = np.ones((len(made.captions), 16), dtype=np.float32)
        writer.write_images(0, features=images, problems={}, digests=digests_of(made.image_ids))
        writer.write_texts(0, features=texts, tokens=np.full(len(texts), 5))
    solved = fit_cca(FeatureCache(tmp_path / "flat.h5")).solve(0.1)
    assert all(np.isfinite(values).all() for values in solved.values())
    assert np.abs(solved["image/weight"]).max() < 1e-6


def test_directions_come_in_the_order_of_their_correlations_and_count_by_them(tmp_path):
    cache = cache_of(tmp_path)
    images, texts = pairs_of(cache)
    solved = fit_cca(cache).solve(1e-6)
    along = [
        images @ solved["image/weight"] + solved["image/bias"],
        texts @ solved["text/weight"] + solved["text/bias"],
    ]
    correlations = [np.corrcoef(one, other)[0, 1] for one, other in zip(along[0].T, along[1].T, strict=True)]
    assert correlations == pytest.approx(sorted(correlations, reverse=True), abs=1e-4)
    np.testing.assert_allclose(along[0].std(axis=0), correlations, atol=1e-3)
    np.testing.assert_allclose(along[0].mean(axis=0), 0, atol=1e-4)


def test_the_sign_of_a_direction_does_not_depend_on_who_solves(tmp_path, monkeypatch):
    """LAPACKs find either of two opposite vectors; a head between two solutions would be of neither."""
    cache = cache_of(tmp_path)
    expected = fit_cca(cache).solve(0.1)
    svd = np.linalg.svd
    flips = np.where(np.arange(16) % 3, 1, -1)

    def other(matrix, **settings):
        left, values, right = svd(matrix, **settings)
        return left * flips, values, right * flips[:, None]

    monkeypatch.setattr(np.linalg, "svd", other)
    for name, values in fit_cca(cache).solve(0.1).items():
        np.testing.assert_array_equal(values, expected[name])
