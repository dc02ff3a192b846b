"""Extraction with an image encoder and a text encoder that have never met."""

import re
import sys

import numpy as np
import pytest

from clipret import EvalConfig, ExtractConfig, FeatureCache, TrainConfig, evaluate, extract, train
from clipret.backbones import load_backbone
from clipret.cache.inspection import inspect_cache
from clipret.config import VerifyConfig
from clipret.errors import CacheError
from clipret.extraction.checking import check_dataset
from clipret.extraction.verification import verify
from clipret.reporting.caches import info_sheets
from tests.conftest import StopAfter
from tests.helpers.caches import arrays
from tests.helpers.child_extraction import kill_extraction


@pytest.fixture
def config(coco_root, pair_models, tmp_path):
    """Settings of a small extraction of 20 batches of images; changes by keyword."""

    def make(**changes):
        values = {"dataset": "coco", "root": coco_root, "model": pair_models.pair("hf_dinov2"), "batch_size": 4}
        values |= {"out": tmp_path / "coco.h5", "workers": 0, "device": "cpu", "dtype": "float32"}
        return ExtractConfig(**(values | changes))

    return make


def test_a_cache_of_a_pair_has_features_and_no_projection(config):
    extract(config())
    cache, backbone = FeatureCache(config().out), load_backbone(config().model)
    assert list(cache.projections) == ["logit_scale"]
    assert not cache.aligned
    assert (cache.width("image"), cache.width("text")) == (32, 32)
    ids = backbone.pad(backbone.tokenize(cache.captions[:5])[0])
    expected = backbone.encode_text(ids).numpy()
    np.testing.assert_allclose(cache.read("text", np.arange(5)), expected, atol=1e-5)
    assert cache.inputs["backbone"] == "pair"
    assert cache.inputs["text_pooling"] == "Pooling mean"
    assert verify(VerifyConfig(config().out, sample=8))["sound"]


def test_info_names_both_encoders(config):
    extract(config())
    (sheet,) = info_sheets(inspect_cache(config().out))
    rows = {name.text: value.text for name, value in sheet.rows}
    shown = {name: rows[name] for name in rows if name.endswith(("encoder", "pooling", "tokenizer"))}
    assert {name: re.sub("[0-9a-f]{12}", "DIGEST", text) for name, text in shown.items()} == {
        "image encoder": "Dinov2Model, config.json DIGEST",
        "image pooling": "pooler_output",
        "text encoder": "BertModel, configs DIGEST",
        "tokenizer": "BertTokenizer DIGEST, 24 tokens, lower-cased, padding masked",
        "text pooling": "Pooling mean",
    }
    assert rows["projections"] == (
        "none: the encoders were never aligned; heads start in closed form, and nothing is zero-shot"
    )


@pytest.mark.ci
def test_a_resumed_cache_has_the_bytes_of_an_uninterrupted_one(config, tmp_path):
    extract(config(out=tmp_path / "whole.h5"))
    with pytest.raises(KeyboardInterrupt):
        extract(config(), on_progress=StopAfter(7))
    assert 0 < extract(config())["extracted_images"] < 80
    assert arrays(config().out) == arrays(tmp_path / "whole.h5")


def test_another_encoder_on_either_side_is_another_cache(config, pair_models):
    extract(config())
    for model in (pair_models.pair("timm_dinov2"), pair_models.pair("hf_dinov2", "bert")):
        with pytest.raises(CacheError, match=r"weights_sha256|text_encoder|image_encoder"):
            extract(config(model=model))


def test_a_check_counts_with_the_tokenizer_of_the_text_encoder(config):
    result = check_dataset(config())
    assert result["too_long"]["context_length"] == 24


@pytest.mark.ci
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals as Linux has them")
def test_killed_and_resumed_by_two_workers_it_is_the_same_bytes(config, children, tmp_path):
    extract(config(out=tmp_path / "whole.h5"))
    kill_extraction(config(workers=2), children)
    assert not FeatureCache(config().out, allow_incomplete=True).complete
    extract(config(workers=2))
    assert arrays(config().out) == arrays(tmp_path / "whole.h5")


@pytest.mark.ci
def test_random_encoders_of_emoji_are_above_chance_from_closed_form(pair_models, tmp_path):
    """By chance R@10 is 10 of 376 images, and of 576 captions about 1.5 times that as an image has several."""
    path = tmp_path / "emoji.h5"
    extract(ExtractConfig("emoji", model=pair_models.pair("hf_dinov2"), out=path, workers=2, device="cpu"))
    result = train(TrainConfig(cache=path, epochs=5, lr=1e-4, loss="infonce", runs_dir=tmp_path))
    assert result["val_rsum"] >= result["closed_form_val_rsum"]
    report = evaluate(EvalConfig(head=result["run"]))
    assert list(report["results"]) == ["closed-form", "trained"]
    for head in ("closed-form", "trained"):
        low, _ = report["intervals"]["heads"][head]["t2i"]["R@10"]
        assert low > 1.5 * 10 / 376
        low, _ = report["intervals"]["heads"][head]["i2t"]["R@10"]
        assert low > 1.5 * 10 / 576
