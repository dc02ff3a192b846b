"""Encoders of other libraries through every stage, and killed and resumed."""

import numpy as np
import pytest

from clipret import EvalConfig, ExtractConfig, FeatureCache, TrainConfig, VerifyConfig, evaluate, extract, train, verify
from clipret.cache.inspection import inspect_cache
from clipret.config import CheckConfig
from clipret.errors import CacheMismatchError
from clipret.extraction.checking import check_dataset
from tests.helpers.caches import arrays
from tests.helpers.child_extraction import kill_extraction
from tests.helpers.open_clip_models import ARCHITECTURES, write_open_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_open_clip(tmp_path_factory.mktemp("open_clip") / "vit", ARCHITECTURES["vit"])
    return f"open_clip:local-dir:{folder}"


@pytest.fixture
def config(coco_root, model, tmp_path):
    def make(**changes):
        values = {"dataset": "coco", "root": coco_root, "model": model, "batch_size": 4, "out": tmp_path / "coco.h5"}
        return ExtractConfig(**(values | {"workers": 0, "device": "cpu"} | changes))

    return make


@pytest.mark.ci
def test_an_encoder_of_another_library_goes_through_every_stage(config, coco_root, tmp_path):
    """One with the identity on the image side and a bias on the text side."""
    model = f"open_clip:local-dir:{write_open_clip(tmp_path / 'siglip', ARCHITECTURES['siglip'])}"
    result = extract(config(batch_size=16, model=model))
    assert (result["images"], result["problems"]) == (80, 0)
    info = inspect_cache(result["cache"])
    assert info["projections"] == {
        "image": {"shape": [192, 192], "bias": False, "identity": True},
        "text": {"shape": [64, 192], "bias": True, "identity": False},
    }
    assert info["inputs"]["tokenizer"] == "CLIP's byte pairs, 64 tokens"
    assert info["inputs"]["pooling"] == "last"
    assert info["inputs"]["library"] == info["library"]
    assert info["captions"]["context_length"] == 64
    run = train(TrainConfig(cache=result["cache"], runs_dir=tmp_path / "runs", epochs=2, lr=1e-3))
    report = evaluate(EvalConfig(head=run["run"], resamples=0))
    assert list(report["results"]) == ["zero-shot", "trained"]
    assert verify(VerifyConfig(cache=result["cache"], sample=5))["sound"]
    checked = check_dataset(CheckConfig(dataset="coco", root=coco_root, model=model))
    assert checked["too_long"]["context_length"] == 64


def test_what_the_fingerprint_holds_tells_encoders_apart(config, tmp_path):
    extract(config(batch_size=16))
    changed = {**ARCHITECTURES["vit"], "text_cfg": {**ARCHITECTURES["vit"]["text_cfg"], "heads": 1}}
    folder = write_open_clip(tmp_path / "other", changed)
    with pytest.raises(CacheMismatchError, match=r"architecture: it has .open_clip_config"):
        extract(config(batch_size=16, model=f"open_clip:local-dir:{folder}"))


@pytest.mark.ci
def test_padded_images_are_another_fingerprint_and_verify_pads_them_too(config, tmp_path):
    plain, padded = (extract(config(out=tmp_path / f"{pad}.h5", pad_images=pad)) for pad in (False, True))
    assert plain["fingerprint"] != padded["fingerprint"]
    one, other = (FeatureCache(result["cache"]).image_features for result in (plain, padded))
    assert not np.array_equal(one, other)
    assert verify(VerifyConfig(cache=padded["cache"], sample=5))["sound"]


@pytest.mark.ci
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_it_equals_an_uninterrupted_extraction(config, children, tmp_path, workers):
    extract(config(out=tmp_path / "whole.h5"))
    settings = config(workers=workers)
    kill_extraction(settings, children)
    assert 0 < extract(settings)["extracted_images"] <= 80
    assert arrays(settings.out) == arrays(tmp_path / "whole.h5")
