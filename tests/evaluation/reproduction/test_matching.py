import functools

import numpy as np
import pytest

from clipret import FeatureCache
from clipret.cache.image_keys import image_keys
from clipret.config.reproduction import ReproduceConfig
from clipret.errors import DatasetError, UsageError
from clipret.evaluation.reproduction import matching
from clipret.evaluation.reproduction.published import published_rows
from clipret.evaluation.reproduction.stage import reproduce
from clipret.protocols.leakage import training_keys
from clipret.protocols.protocol import make_protocol
from tests.conftest import keep_keys
from tests.helpers.published_caches import FLICKR, ROWS, WEIGHTS, changed, publish_rows, trained, write_small


@pytest.fixture
def publish(monkeypatch):
    return functools.partial(publish_rows, monkeypatch)


@pytest.fixture
def small(tmp_path):
    return functools.partial(write_small, tmp_path)


@pytest.mark.parametrize(
    ("model", "weights", "recognised_by"),
    [
        ("/here/copy.pt", WEIGHTS, ("ViT-B/32", "weights")),
        ("ViT-L/14@336px", "ab" * 32, ("ViT-L/14@336px", "name")),
        ("/here/ViT-L-14-336px.pt", "ab" * 32, ("ViT-L/14@336px", "file")),
        ("vit-b-32.pt", "ab" * 32, ("ViT-B/32", "file")),
    ],
)
def test_a_model_is_known_by_its_weights_its_name_or_its_file(small, model, weights, recognised_by):
    karpathy = matching.recognise(FeatureCache(small("coco", model=model, weights_sha256=weights)))
    assert (karpathy.model.name, karpathy.by) == recognised_by


def test_a_model_that_nobody_published_is_refused(small):
    path = small("coco", model="tiny-emoji", weights_sha256="ab" * 32)
    with pytest.raises(UsageError) as caught:
        reproduce(ReproduceConfig(cache=path))
    assert str(caught.value) == (
        f"no published figure is of {path}: its model 'tiny-emoji' is none of the 115 that have some, which clipret "
        f"models shows; clipret reproduce --list shows all rows and the cache that each needs."
    )


@pytest.mark.parametrize(
    ("model", "recognised"),
    [
        ("open_clip:ViT-B-16-SigLIP/webli", "open_clip:ViT-B-16-SigLIP/webli"),
        ("open_clip:hf-hub:timm/ViT-B-16-SigLIP", "open_clip:ViT-B-16-SigLIP/webli"),
        ("hf:google/siglip-base-patch16-224", "open_clip:ViT-B-16-SigLIP/webli"),
        # Computed with QuickGELU, which the row without it is not of.
        ("open_clip:ViT-B-32/laion400m_e32", "open_clip:ViT-B-32-quickgelu/laion400m_e32"),
        ("open_clip:ViT-B-32/openai", "ViT-B/32"),
        ("open_clip:ViT-L-14-336-quickgelu/openai", "ViT-L/14@336px"),
        ("open_clip:local-dir:/models/RN50", None),
        ("open_clip:ViT-B-16-SigLIP/mine.pt", None),
        ("hf:/models/ViT-B-32", None),
    ],
)
def test_a_model_of_another_library_is_known_by_its_tag(small, model, recognised):
    path = small("coco", model=model, weights_sha256="ab" * 32, backbone=model.partition(":")[0])
    result = matching.recognise(FeatureCache(path))
    assert (result and (result.model.name, result.by)) == (recognised and (recognised, "tag"))


def test_figures_of_another_library_are_compared_and_explained_by_what_is_known_of_it(small, publish):
    name = "open_clip:ViT-B-16-SigLIP/webli"
    path = small(
        "flickr30k", model=name, weights_sha256="ab" * 32, backbone="open_clip", preprocessing="224 px, squash"
    )
    report = reproduce(ReproduceConfig(cache=path))
    (row,) = report["rows"]
    assert (row["name"], report["cache"]["recognised_by"]) == (
        f"open_clip {name} zero-shot, flickr30k-karpathy-1k",
        "tag",
    )
    assert row["explanations"][0] == "12 images where the protocol has 1,000"
    needs = {other["name"]: other["needs"] for other in report["unmatched"]}
    assert needs[f"open_clip {name} zero-shot, coco-karpathy-5k"] == (
        f"clipret extract --dataset coco --split karpathy --model {name}"
    )


@pytest.mark.parametrize(
    ("dataset", "changes", "inputs"),
    [
        ("shop", {}, "data set 'shop', prompt '{}', caption clean 'none'"),
        (
            "flickr30k",
            {"prompt": "a {}", "caption_clean": "lower"},
            "data set 'flickr30k', prompt 'a {}', caption clean 'lower'",
        ),
    ],
)
def test_a_cache_that_matches_no_row_is_refused_with_the_existing_rows(small, dataset, changes, inputs):
    path = small(dataset, **changes)
    with pytest.raises(UsageError) as caught:
        reproduce(ReproduceConfig(cache=path))
    assert str(caught.value) == (
        f"no published figure of ViT-B/32 matches {path}: {inputs}; there are figures by protocol "
        f"coco-karpathy-5k, flickr30k-karpathy-1k, coco-val2017, xm3600, xtd10; clipret reproduce --list shows them "
        f"and the cache that each needs."
    )


def test_a_row_with_a_prompt_is_of_a_cache_with_that_prompt(small, publish):
    figures = {direction: {"R@1": 50.0} for direction in ("i2t", "t2i")}
    paper = changed(ROWS["CLIP paper ViT-L/14@336px zero-shot, coco-karpathy-5k"], figures, model="ViT-B/32")
    raw = changed(ROWS["open_clip ViT-B/32 zero-shot, coco-karpathy-5k"], figures)
    publish(paper, raw)
    prompted = reproduce(ReproduceConfig(cache=small("coco-karpathy", prompt="a photo of {}"), tolerance=0))
    assert [row["name"] for row in prompted["rows"]] == [paper.name]
    assert "prompt 'a photo of {}' where the protocol has raw captions" not in prompted["rows"][0]["explanations"]
    assert [(row["reason"], row["needs"]) for row in prompted["unmatched"]] == [
        ("the cache has prompt 'a photo of {}', the row '{}'", "clipret extract --dataset coco --split karpathy")
    ]
    plain = reproduce(ReproduceConfig(cache=small("coco-karpathy", name="plain.h5")))
    assert [row["name"] for row in plain["rows"]] == [raw.name]
    assert plain["unmatched"][0]["reason"] == "the cache has prompt '{}', the row 'a photo of {}'"


def test_rows_that_the_cache_does_not_answer_say_why_and_what_does(small):
    path = small("flickr30k")
    report = reproduce(ReproduceConfig(cache=path))
    assert [row["name"] for row in report["rows"]] == [FLICKR]
    others = {row["name"]: (row["reason"], row["needs"]) for row in report["unmatched"]}
    own = [row for row in published_rows() if row.model == "ViT-B/32"]
    assert len(others) == len(own) - 1
    assert report["elsewhere"] == {"rows": len(published_rows()) - len(own), "models": 115 - 1 + 5}
    assert others["open_clip ViT-B/32 zero-shot, coco-karpathy-5k"] == (
        f"needs a cache of data set 'coco-karpathy', {path} is of 'flickr30k'",
        "clipret extract --dataset coco --split karpathy",
    )
    assert others["reference ViT-B/32 zero-shot, flickr30k at random"] == (
        "cannot be reproduced: measured on 1,000 images drawn at random without a seed, which nobody can draw again",
        None,
    )
    assert others["open_clip multilingual ViT-B/32 zero-shot, xm3600 de"] == (
        f"needs a cache of data set 'xm3600', {path} is of 'flickr30k'",
        "clipret extract --dataset xm3600",
    )


def test_a_cache_of_part_of_coco_says_what_it_lacks(small):
    path = small("coco")
    reasons = {row["name"]: row["reason"] for row in reproduce(ReproduceConfig(cache=path))["unmatched"]}
    assert reasons["open_clip ViT-B/32 zero-shot, coco-karpathy-5k"] == (
        f"needs 5,000 images, {path} has 0 of them; extract all of COCO"
    )
    bare = small("flickr30k", name="bare.h5", unusable=tuple(range(0, 24, 2)))
    cache = FeatureCache(bare)
    _, unmatched = matching.match_rows(cache, model=matching.recognise(cache).model, run=None)
    reasons = {other.row.name: other.reason for other in unmatched}
    assert reasons[FLICKR] == f"{bare} has too few usable images and captions for it"


def test_without_the_package_of_the_ids_its_rows_say_so(small, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    report = reproduce(ReproduceConfig(cache=small("coco"), tolerance=100))
    assert [row["name"] for row in report["rows"]] == ["reference ViT-B/32 zero-shot, coco-val2017"]
    (reason,) = [
        row["reason"] for row in report["unmatched"] if row["name"].endswith("B/32 zero-shot, coco-karpathy-5k")
    ]
    with pytest.raises(DatasetError) as caught:
        make_protocol(FeatureCache(report["cache"]["path"]), "coco-karpathy-5k")
    assert f"{reason}." == str(caught.value)


def test_without_a_head_fine_tuned_rows_are_not_compared(small):
    report = reproduce(ReproduceConfig(cache=small("coco"), tolerance=100))
    reasons = {row["name"]: row["reason"] for row in report["unmatched"]}
    assert reasons["reference ViT-B/32 margin, coco-val2017"] == "it needs a trained head; give one with --head"


@pytest.mark.ci
def test_a_head_that_saw_the_images_is_not_compared(small):
    path = small("coco")
    run = trained(path)
    keep_keys(run / "head.safetensors", training_keys(image_keys(FeatureCache(path), np.array([0, 1, 2]))))
    report = reproduce(ReproduceConfig(cache=path, head=run, tolerance=100))
    reasons = {row["name"]: row["reason"] for row in report["unmatched"]}
    assert reasons["reference ViT-B/32 margin, coco-val2017"] == f"2 of its 12 images were trained on by {run}"
