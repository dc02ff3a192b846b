import functools

import numpy as np
import pytest

from clipret.config.reproduction import ReproduceConfig
from clipret.evaluation.reproduction.stage import reproduce
from tests.conftest import keep_keys
from tests.helpers.published_caches import (
    FLICKR,
    MEASURED,
    ROWS,
    changed,
    off,
    publish_rows,
    trained,
    write_flickr,
    write_small,
)


@pytest.fixture(scope="module")
def flickr(tmp_path_factory):
    return write_flickr(tmp_path_factory.mktemp("flickr") / "flickr30k.h5", images=1000)


@pytest.fixture
def publish(monkeypatch):
    return functools.partial(publish_rows, monkeypatch)


@pytest.fixture
def small(tmp_path):
    return functools.partial(write_small, tmp_path)


def explanations(path, rows, publish, **config):
    publish(*rows)
    return reproduce(ReproduceConfig(cache=path, **config))["rows"][0]["explanations"]


def test_without_a_known_reason_it_says_how_to_look_further(flickr, publish):
    row = changed(ROWS[FLICKR], off(MEASURED, {("t2i", "R@1"): 3, ("i2t", "R@1"): -1}))
    assert explanations(flickr, [row], publish) == [
        f"nothing recorded in {flickr} explains it; clipret verify {flickr} --sample 20 encodes a sample again"
    ]


@pytest.mark.ci
def test_signs_spread_and_another_row_are_hints(flickr, publish):
    below = {(direction, name): -0.7 for direction in MEASURED for name in MEASURED[direction]}
    row = changed(ROWS[FLICKR], off(MEASURED, below))
    twin = changed(ROWS["open_clip ViT-B/16 zero-shot, flickr30k-karpathy-1k"], off(MEASURED, {("i2t", "R@5"): 0.25}))
    assert explanations(flickr, [row, twin], publish) == [
        "all figures are within 0.25 points of another row, open_clip ViT-B/16 zero-shot, flickr30k-karpathy-1k: check "
        "model, split and head",
        "CLIP_benchmark's own table of OpenAI's models differs from these by up to 0.4 points",
        "all 6 figures are lower, as with weights, activation, preprocessing or decoding other than CLIP's",
    ]
    above = {(direction, name): 2.5 for direction in MEASURED for name in MEASURED[direction]}
    assert explanations(flickr, [changed(ROWS[FLICKR], off(MEASURED, above))], publish) == [
        "all 6 figures are higher, as with a smaller gallery or a model that was trained on these images"
    ]
    row = changed(ROWS[FLICKR], off(MEASURED, {("i2t", "R@5"): 2.5}))
    assert explanations(flickr, [row], publish) == [
        "only i2t is outside, where the number of captions per image matters; in t2i it hardly does"
    ]


def test_another_row_without_some_of_the_metrics_is_not_suggested(flickr, publish):
    row = changed(ROWS[FLICKR], off(MEASURED, {("t2i", "R@1"): 3, ("i2t", "R@1"): -1}))
    few = changed(
        ROWS[FLICKR],
        {direction: {"R@10": 90.0} for direction in MEASURED},
        source=ROWS["reference ViT-B/32 zero-shot, coco-val2017"].source,
    )
    assert explanations(flickr, [row, few], publish)[0].startswith("nothing recorded in ")


def test_settings_of_the_cache_that_are_not_the_usual_ones_are_named(small, publish):
    tokens = np.full(120, 5)
    tokens[[0, 1, 10, 19]] = 78
    near = {"mean": 0.99871, "min": 0.99}
    decoding = {"images": 16, "cosine": near, "centred_cosine": near}
    path = small(
        "coco",
        model="/weights/ViT-B-32.pt",
        weights_sha256="ab" * 32,
        preprocessing="clip 64 px",
        decode="fast, by nvJPEG",
        precision="bfloat16",
        about={"decoding": decoding, "remarks": ["left out 1 empty caption, of 12"]},
        unusable=(2,),
        tokens=tokens,
    )
    figures = {direction: {"R@1": 1.0, "R@5": 100.0} for direction in ("i2t", "t2i")}
    row = changed(ROWS["reference ViT-B/32 zero-shot, coco-val2017"], figures, remark="what the row remarks")
    assert explanations(path, [row], publish) == [
        "the weights (abababababab) are not OpenAI's of ViT-B/32 (40d365715913); they were computed with QuickGELU, as "
        "OpenAI's are trained, which lowers the figures of weights trained with GELU",
        "preprocessing is 'clip 64 px' where that of ViT-B/32 is clip's own (bicubic, with antialiasing, centre crop) "
        "to 224 px",
        "images were decoded 'fast, by nvJPEG', whose features have cosine 0.9987 to exact ones; extract with --decode "
        "exact",
        "12 images where the protocol has 5,000",
        "1 of 12 images have no usable feature and are left out",
        # Captions 0 and 1 are image 0's; 10, of the image that is left out, and 19, of train, do not count.
        "2 of 55 captions were cut to 77 tokens: at most 3.64 points of t2i",
        "extraction remarked: left out 1 empty caption, of 12",
        "what the row remarks",
    ]


@pytest.mark.parametrize(
    ("precision", "difference", "named"), [("bfloat16", 1.5, 1), ("float16", 2.5, 0), ("float32", 1, 0)]
)
def test_the_encoders_rounding_is_named_where_it_may_be_enough(small, publish, precision, difference, named):
    path = small("coco", precision=precision)
    row = ROWS["reference ViT-B/32 zero-shot, coco-val2017"]
    publish(changed(row, {direction: {"R@1": 50.0} for direction in ("i2t", "t2i")}))
    ours = {direction: {} for direction in ("i2t", "t2i")}
    for figure in reproduce(ReproduceConfig(cache=path))["rows"][0]["figures"]:
        ours[figure["direction"]][figure["metric"]] = figure["ours"] + difference
    reasons = explanations(path, [changed(row, ours)], publish)
    assert reasons.count(f"features were computed in {precision}; extract with --precision fp32") == named


def test_decoding_without_a_measurement_is_named_all_the_same(small, publish):
    path = small("coco", decode="fast, JPEGs at a smaller scale", about={"decoding": None})
    row = changed(ROWS["reference ViT-B/32 zero-shot, coco-val2017"], {key: {"R@1": 0.1} for key in ("i2t", "t2i")})
    reasons = explanations(path, [row], publish)
    assert reasons[0] == "images were decoded 'fast, JPEGs at a smaller scale'; extract with --decode exact"


def test_a_run_of_other_settings_and_unknown_images_is_a_hint(small, publish):
    path = small("coco")
    run = trained(path, lr=1e-2, batch_size=8)
    keep_keys(run / "head.safetensors", None)
    row = changed(ROWS["reference ViT-B/32 margin, coco-val2017"], {key: {"R@1": 0.1} for key in ("i2t", "t2i")})
    publish(row)
    report = reproduce(ReproduceConfig(cache=path, head=run))
    assert report["rows"][0]["explanations"] == [
        "12 images where the protocol has 5,000",
        f"{run} was trained with reduction balanced (published: mean), batch size 8 (published: 32), lr 0.01 "
        f"(published: 0.0001)",
        f"whether {run} was trained on these images was not checked",
        "one training, of batch size 32, whose seed and number of epochs are not told",
        "all 2 figures are higher, as with a smaller gallery or a model that was trained on these images",
    ]
