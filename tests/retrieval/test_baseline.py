"""The head that trained heads are compared with: a cache's own, or one in closed form."""

import h5py
import numpy as np
import pytest

from clipret.cache import FeatureCache
from clipret.errors import CacheError, UsageError
from clipret.heads.linear import LinearHead
from clipret.retrieval import baseline
from clipret.retrieval.baseline import CCA_STRENGTHS, baseline_name, baseline_projections
from clipret.retrieval.closed_form import fit_cca
from clipret.retrieval.gallery import read_validation
from clipret.retrieval.metrics import rsum
from tests.conftest import digests_of, write_cache
from tests.helpers.pair_caches import pair_contents, splits, write_pair_cache


def pair_cache(tmp_path, **changes):
    return FeatureCache(write_pair_cache(tmp_path / "pair.h5", **changes))


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_of_an_encoder_with_projections_it_is_these(tmp_path):
    cache = FeatureCache(write_cache(tmp_path / "made.h5"))
    assert cache.aligned
    assert baseline_name(cache) == "zero-shot"
    assert baseline_projections(cache) is cache.projections


def test_of_a_pair_it_is_the_solution_that_is_best_on_val(tmp_path):
    cache = pair_cache(tmp_path, images=200)
    assert not cache.aligned
    assert baseline_name(cache) == "closed-form"
    analysis, gallery = fit_cca(cache), read_validation(cache)
    sums = [rsum(gallery.measure(LinearHead(analysis.solve(s)), device="cpu")) for s in CCA_STRENGTHS]
    assert len(set(sums)) > 1
    best = analysis.solve(CCA_STRENGTHS[sums.index(max(sums))])
    assert equal(baseline_projections(cache), {**best, "logit_scale": cache.projections["logit_scale"]})


def test_of_equally_good_solutions_it_is_the_most_regularised(tmp_path, monkeypatch):
    cache = pair_cache(tmp_path)
    monkeypatch.setattr(baseline, "rsum", lambda figures: 1.0)
    solved = fit_cca(cache).solve(CCA_STRENGTHS[0])
    assert CCA_STRENGTHS[0] == max(CCA_STRENGTHS)
    assert equal(baseline_projections(cache), {**solved, "logit_scale": cache.projections["logit_scale"]})


def test_without_val_a_fixed_strength_is_taken(tmp_path):
    cache = pair_cache(tmp_path, image_splits=splits(60, 0, 0, 2))
    solved = fit_cca(cache).solve(0.1)
    assert equal(baseline_projections(cache), {**solved, "logit_scale": cache.projections["logit_scale"]})


def test_without_train_it_is_refused_in_one_line(tmp_path):
    cache = pair_cache(tmp_path, image_splits=splits(60, 1, 2))
    with pytest.raises(UsageError) as caught:
        baseline_projections(cache)
    assert str(caught.value) == (
        f"{cache.path} is of two encoders without projections of their own, so that its untrained head is solved for "
        f"on the train split: split 'train' has 0 usable images and 0 captions, expected at least one of "
        f"each; images a split in this cache: train 0, "
        f"val 30, test 30, restval 0."
    )


def test_images_that_val_has_too_have_no_part_in_it(tmp_path):
    made = pair_contents()
    names = [name if row % 5 else "the same" for row, name in enumerate(made.image_ids)]
    names[3] = "the same"
    assert made.image_splits[[0, 3]].tolist() == [0, 1]
    cache = FeatureCache(write_cache(tmp_path / "copies.h5", made, digests=digests_of(names)))
    whole, clean = fit_cca(cache), fit_cca(cache, without_copies=True)
    ours = baseline_projections(cache)
    assert any(equal(ours, {**clean.solve(s), "logit_scale": cache.projections["logit_scale"]}) for s in CCA_STRENGTHS)
    assert not any(np.array_equal(ours["image/weight"], whole.solve(s)["image/weight"]) for s in CCA_STRENGTHS)


def test_only_copies_of_test_in_train_are_refused_in_one_line(tmp_path):
    made = pair_contents(images=4, image_splits=splits(4, 0, 2))
    cache = FeatureCache(write_cache(tmp_path / "copies.h5", made, digests=digests_of(["one", "one", "two", "two"])))
    with pytest.raises(UsageError, match=r"^[^\n]*is solved for on the train split: [^\n]*\.$"):
        baseline_projections(cache)


def test_a_feature_that_is_not_finite_is_refused(tmp_path):
    cache = pair_cache(tmp_path)
    with h5py.File(cache.path, "r+") as file:
        file["image/features"][0, 0] = np.nan
    with pytest.raises(CacheError, match=r"^[^\n]*$"):
        baseline_projections(FeatureCache(cache.path))


def test_it_is_solved_once_for_a_file_however_often_that_is_opened(tmp_path, monkeypatch):
    path = write_pair_cache(tmp_path / "pair.h5")
    first = baseline_projections(FeatureCache(path))
    monkeypatch.setattr(baseline, "fit_cca", None)
    assert baseline_projections(FeatureCache(path)) is first


def test_another_file_in_its_place_is_solved_anew(tmp_path):
    path = write_pair_cache(tmp_path / "pair.h5")
    first = baseline_projections(FeatureCache(path))
    path.unlink()
    write_pair_cache(path, seed=1)
    assert not equal(baseline_projections(FeatureCache(path)), first)
    for number in range(5):
        baseline_projections(FeatureCache(write_pair_cache(tmp_path / f"{number}.h5", seed=number)))
    assert len(baseline._SOLUTIONS) <= 4
