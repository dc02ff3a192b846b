"""Maps of images: by PCA, or by UMAP where it is installed."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from clipret import FeatureCache, LookConfig, look
from clipret.errors import UsageError
from clipret.evaluation.looking import suspects
from clipret.evaluation.looking.suspects import draw_map, embeddings


@pytest.fixture(scope="module")
def made(searchable):
    """The cache and its embeddings."""
    cache = FeatureCache(searchable.cache)
    return cache, embeddings(cache, device="cpu")


def test_pca_is_the_two_directions_of_the_largest_variance(made):
    cache, sides = made
    points = draw_map(cache, sides, kind="pca", seed=0, most=40)
    images = sides["image"].astype(np.float64)
    _, vectors = np.linalg.eigh(np.cov(images.T))
    assert len(points) == 40
    assert [point["row"] for point in points] == sorted(point["row"] for point in points)
    expected = images[[point["row"] for point in points]] @ vectors[:, [-1, -2]]
    for place, name in enumerate(("x", "y")):
        shown = np.array([point[name] for point in points])
        assert (shown.min(), shown.max()) == (0, 1)
        # A direction may be turned round.
        assert abs(np.corrcoef(shown, expected[:, place])[0, 1]) == pytest.approx(1, abs=1e-4)


def test_umap_is_fitted_on_a_part_and_shown_where_it_puts_each_image(made, monkeypatch):
    cache, sides = made
    asked = {}

    class Fitted:
        def __init__(self, **settings):
            asked.update(settings)

        def fit_transform(self, values):
            asked["fitted"] = len(values)
            return values[:, :2]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Fitted))
    monkeypatch.setattr(suspects, "_UMAP", 60)
    points = draw_map(cache, sides, kind="umap", seed=7, most=20)
    assert asked == {
        "n_neighbors": 15,
        "min_dist": 0.1,
        "metric": "cosine",
        "random_state": 7,
        "n_jobs": 1,
        "fitted": 60,
    }
    images = sides["image"][[point["row"] for point in points]]
    for place, name in enumerate(("x", "y")):
        expected = (images[:, place] - images[:, place].min()) / np.ptp(images[:, place])
        assert [point[name] for point in points] == pytest.approx(expected, abs=1e-6)


def test_a_missing_umap_is_one_line_with_the_command(searchable, tmp_path, monkeypatch):
    monkeypatch.setattr("clipret.exports.packages.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        look(LookConfig(cache=searchable.cache, out=tmp_path / "l.html", map="umap"))
    assert str(caught.value) == "--map umap needs the package umap; run: pip install 'clipret[umap]'"
    assert not (tmp_path / "l.html").exists()
    with pytest.raises(UsageError, match="map"):
        LookConfig(cache=searchable.cache, map="tsne")


@pytest.mark.ci
def test_umap_itself_is_decided_by_the_seed_and_keeps_neighbours(made, searchable, tmp_path):
    cache, sides = made
    points = draw_map(cache, sides, kind="umap", seed=0, most=1000)
    assert draw_map(cache, sides, kind="umap", seed=0, most=1000) == points
    flat = np.array([[point["x"], point["y"]] for point in points])
    images = sides["image"].astype(np.float64)
    near = np.argsort(-(images @ images.T), axis=1)[:, 1:16]
    on_map = np.argsort(((flat[:, None] - flat[None]) ** 2).sum(-1), axis=1)[:, 1:16]
    kept = np.mean([len(set(a) & set(b)) for a, b in zip(near.tolist(), on_map.tolist(), strict=True)]) / 15
    # By chance it would be a tenth.
    assert kept > 0.4
    look(LookConfig(cache=searchable.cache, out=tmp_path / "l.html", map="umap"))
    assert "UMAP of the embeddings" in (tmp_path / "l.html").read_text(encoding="utf-8")


def test_so_few_images_that_they_have_no_neighbourhoods_are_on_the_other_map(made):
    _, sides = made
    few = SimpleNamespace(rows=lambda side: np.arange(10))
    part = {"image": sides["image"][:10]}
    assert draw_map(few, part, kind="umap", seed=0, most=10) == draw_map(few, part, kind="pca", seed=0, most=10)


@pytest.mark.parametrize(("images", "width"), [(1, 4), (1, 1), (5, 1)])
def test_one_image_and_embeddings_of_one_number_are_on_a_map_too(images, width):
    few = SimpleNamespace(rows=lambda side: np.arange(images))
    values = np.random.default_rng(0).normal(size=(images, width)).astype(np.float32)
    points = draw_map(few, {"image": values}, kind="pca", seed=0, most=10)
    assert [point["row"] for point in points] == list(range(images))
    assert {point["y"] for point in points} == {0.0}
    order = np.argsort([point["x"] for point in points]).tolist()
    assert order in (np.argsort(values[:, 0]).tolist(), np.argsort(-values[:, 0]).tolist())
