"""The wise-ft curve of a report is that of eval --wise-ft, on val."""

import json

import numpy as np
import pytest

from clipret import EvalConfig, TrainConfig, evaluate, train
from clipret.evaluation.findings import mixing
from clipret.evaluation.findings.mixing import WEIGHTS, mixing_curve
from clipret.evaluation.inputs import open_inputs
from clipret.reporting.pages.parts.mixing import PART
from tests.conftest import contents, write_cache


@pytest.fixture(scope="module")
def inputs(searchable):
    return open_inputs(EvalConfig(cache=searchable.cache, head=searchable.run))


def test_it_is_that_of_eval(inputs, searchable, tmp_path):
    curve = mixing_curve(inputs, split="test")
    config = EvalConfig(
        cache=searchable.cache, head=searchable.run, split="val", wise_ft=WEIGHTS, out=tmp_path / "m.json"
    )
    measured = evaluate(config)
    names = [f"wise-ft {weight:g}" for weight in WEIGHTS]
    assert (curve["split"], curve["weights"]) == ("val", list(WEIGHTS))
    assert curve["images"] == curve["of"] == measured["protocol"]["images"]
    assert curve["rsum"] == pytest.approx([measured["rsum"][name] for name in names])
    for direction in ("t2i", "i2t"):
        assert curve[direction] == pytest.approx([measured["results"][name][direction]["R@1"] for name in names])
    result = json.loads((searchable.run / "result.json").read_text())
    assert curve["rsum"][0] == pytest.approx(result["zero_shot_val_rsum"])
    assert curve["rsum"][-1] == pytest.approx(result["val_rsum"])


def test_a_large_split_is_thinned_evenly(inputs, monkeypatch):
    monkeypatch.setattr(mixing, "_MOST_IMAGES", 7)
    curve = mixing_curve(inputs, split="test")
    assert curve["images"] == 7
    assert curve["of"] == np.sum(inputs.cache.image_splits == 1)
    assert f"7 of the {curve['of']} images of val, evenly spaced" in PART.render({"mixing": curve, "run": "r"}, None)


def test_without_val_it_is_of_the_split_that_is_reported(tmp_path):
    made = contents(images=30, image_splits=np.repeat(np.array([0, 2], dtype=np.uint8), [20, 10]))
    cache = write_cache(tmp_path / "c.h5", made)
    run = train(TrainConfig(cache=cache, epochs=1, runs_dir=tmp_path))["run"]
    curve = mixing_curve(open_inputs(EvalConfig(cache=cache, head=run)), split="test")
    assert (curve["split"], curve["images"]) == ("test", 10)


def test_there_is_none_without_a_trained_head(searchable):
    inputs = open_inputs(EvalConfig(cache=searchable.cache, zero_shot=True))
    assert mixing_curve(inputs, split="val") is None
    assert PART.render({"mixing": None}, None) == ""
    assert PART.charts({"mixing": None}) == []


def test_the_best_is_said_with_the_command_that_measures_it():
    curve = {"split": "val", "images": 9, "of": 9, "weights": [0, 0.5, 1], "t2i": [0, 1, 0], "i2t": [0, 1, 0]}
    text = PART.render({"mixing": {**curve, "rsum": [1.0, 3.25, 2.0]}, "run": "runs/a b"}, None)
    assert "3.250, is at 0.5" in text
    assert "clipret eval --head &#x27;runs/a b&#x27; --wise-ft 0.5" in text
    assert "clipret eval" not in PART.render({"mixing": {**curve, "rsum": [1.0, 2.0, 3.0]}, "run": "r"}, None)
