import dataclasses
import hashlib
import json
from collections import Counter, defaultdict

import numpy as np
import pytest

from clipret.config import METRICS, PROTOCOLS
from clipret.evaluation.reproduction.published import (
    PublishedRow,
    describe_row,
    list_published,
    published_models,
    published_rows,
    zero_shot_figures,
)
from clipret.metrics import family_of

MODELS = (
    *("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"),
    *("ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px"),
)
ROWS = {row.name: row for row in published_rows()}
RECALLS = ("R@1", "R@5", "R@10")


def of_source(label):
    return [row for row in published_rows() if row.source.label == label]


def test_every_result_is_a_percentage_of_a_known_metric():
    for row in published_rows():
        assert list(row.figures) == ["i2t", "t2i"]
        assert set(row.figures["i2t"]) == set(row.figures["t2i"])
        for metric, value in (pair for metrics in row.figures.values() for pair in metrics.items()):
            # Languages that a model was not trained on.
            assert (0 if row.language else 1e-9) <= value <= 100, (row.name, metric)
            assert family_of(metric) in METRICS
            assert round(value, row.source.digits) == value


def test_recall_never_falls_with_k():
    for row in published_rows():
        for metrics in row.figures.values():
            recalls = [metrics[name] for name in RECALLS if name in metrics]
            assert recalls == sorted(recalls), row.name


def test_at_1_mean_average_precision_is_recall_but_for_what_was_printed_wrong():
    """One published result is impossible: t2i R@1 is 75.96 there, and mAP@1 75.92."""
    differing = [
        (row.name, direction)
        for row in of_source("reference")
        for direction, metrics in row.figures.items()
        if metrics["mAP_hits@1"] != metrics["R@1"]
    ]
    assert differing == [("reference ViT-L/14 cross-entropy, flickr30k at random", "t2i")]


def test_dividing_by_the_hits_makes_i2t_fall_from_5_to_10():
    for row in of_source("reference"):
        assert row.figures["i2t"]["mAP_hits@10"] < row.figures["i2t"]["mAP_hits@5"]
        assert row.figures["t2i"]["mAP_hits@10"] > row.figures["t2i"]["mAP_hits@5"]


def test_open_clips_table_has_six_figures_of_nine_models_on_two_data_sets():
    rows = [row for row in of_source("open_clip") if row.model in MODELS]
    assert [(row.model, row.protocol) for row in rows] == [
        (model, protocol) for protocol in ("coco-karpathy-5k", "flickr30k-karpathy-1k") for model in MODELS
    ]
    assert all(tuple(metrics) == RECALLS for row in rows for metrics in row.figures.values())
    assert sum(len(metrics) for row in rows for metrics in row.figures.values()) == 9 * 2 * 6


def test_open_clips_table_has_109_other_models_on_the_same_two():
    rows = [row for row in of_source("open_clip") if row.model not in MODELS]
    assert Counter(row.protocol for row in rows) == {"coco-karpathy-5k": 109, "flickr30k-karpathy-1k": 109}
    assert all(tuple(metrics) == RECALLS for row in rows for metrics in row.figures.values())
    assert all(row.model.startswith("open_clip:") for row in rows)


def test_the_multilingual_table_has_120_models_in_36_and_11_languages_and_their_mean():
    rows = of_source("open_clip multilingual")
    assert len({row.model for row in rows}) == 120
    assert Counter((row.dataset, row.protocol) for row in rows) == {
        ("xm3600", "xm3600"): 120 * 37,
        ("xtd10", "xtd10"): 120 * 12,
    }
    languages = {row.language for row in rows if row.dataset == "xtd10"}
    assert languages == {"mean", "de", "en", "es", "fr", "it", "ja", "ko", "pl", "ru", "tr", "zh"}
    assert languages < {row.language for row in rows if row.dataset == "xm3600"}
    assert all(row.language is None for row in published_rows() if row.source.label != "open_clip multilingual")


def test_a_mean_is_that_of_the_languages():
    figures = defaultdict(list)
    for row in of_source("open_clip multilingual"):
        if row.language != "mean":
            figures[row.model, row.dataset].append([*row.figures["i2t"].values(), *row.figures["t2i"].values()])
    for row in of_source("open_clip multilingual"):
        if row.language == "mean":
            values = [*row.figures["i2t"].values(), *row.figures["t2i"].values()]
            np.testing.assert_allclose(np.mean(figures[row.model, row.dataset], axis=0), values, atol=0.006)


def test_figures_that_clipret_cannot_compute_again_say_which_row_to_take():
    rows = [row for row in published_rows() if not row.answerable]
    assert {row.model for row in rows} == {
        f"open_clip:{name}"
        for name in ("RN50/cc12m", "RN50/yfcc15m", "RN101/yfcc15m", "ViT-B-32/laion400m_e31", "ViT-B-32/laion400m_e32")
    }
    assert len({row.remark for row in rows}) == 1
    assert rows[0].remark.startswith("measured with GELU, where these weights were trained with QuickGELU")
    assert all(row.needs is None for row in rows)


def test_every_other_name_is_of_one_model_and_of_no_row():
    names = [alias for model in published_models().values() for alias in model.also]
    assert len(names) == len(set(names))
    assert not set(names) & set(published_models())
    assert not set(names) & {row.model for row in published_rows() if row.answerable}


def test_open_clip_has_all_these_tags():
    pytest.importorskip("open_clip", reason="needs pip install '.[open-clip]'")
    from open_clip import list_pretrained

    tags = {f"open_clip:{model}/{tag}" for model, tag in list_pretrained()}
    names = {name for model in published_models().values() for name in (model.name, *model.also)}
    assert {name for name in names if name.startswith("open_clip:") and "hf-hub:" not in name} <= tags


def test_what_is_known_of_a_model_is_found_by_each_of_its_names():
    figures = zero_shot_figures()
    best = figures["open_clip:ViT-H-14-378/dfn5b"]
    assert best["figures"]["coco-karpathy-5k"]["t2i"]["R@1"] == 55.64
    assert (best["params"], best["flops"], best["remark"]) == (986.71, 1054.05, "")
    assert figures["open_clip:ViT-B-32/openai"] == figures["ViT-B/32"]
    assert figures["open_clip:ViT-B-32/laion400m_e32"]["figures"]["coco-karpathy-5k"]["t2i"]["R@1"] == 35.33
    tuned = figures["open_clip:coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k"]
    assert tuned["remark"] == "fine-tuned on COCO, so that its figures on COCO are not zero-shot"
    assert figures["open_clip:nllb-clip-large-siglip/mrl"]["figures"] == {}


@pytest.mark.parametrize(
    ("name", "direction", "values"),
    [
        ("open_clip open_clip:ViT-B-16-SigLIP/webli zero-shot, coco-karpathy-5k", "t2i", [47.78, 72.44, 81.0]),
        (
            "open_clip open_clip:EVA02-B-16/merged2b_s8b_b131k zero-shot, flickr30k-karpathy-1k",
            "i2t",
            [86.0, 96.6, 98.8],
        ),
        ("open_clip multilingual RN50 zero-shot, xtd10 mean", "t2i", [10.92, 22.85, 30.14]),
        (
            "open_clip multilingual open_clip:nllb-clip-base-siglip/v1 zero-shot, xm3600 de",
            "i2t",
            [60.0, 84.44, 91.06],
        ),
        ("open_clip multilingual open_clip:nllb-clip-base-siglip/v1 zero-shot, xtd10 ja", "t2i", [54.6, 80.8, 87.8]),
        ("open_clip RN50 zero-shot, coco-karpathy-5k", "i2t", [48.84, 72.78, 82.12]),
        ("open_clip ViT-B/32 zero-shot, coco-karpathy-5k", "t2i", [30.44, 55.94, 66.87]),
        ("open_clip ViT-L/14@336px zero-shot, flickr30k-karpathy-1k", "t2i", [66.9, 89.0, 93.34]),
        ("open_clip RN50x64 zero-shot, flickr30k-karpathy-1k", "i2t", [86.9, 98.2, 99.2]),
        ("CLIP paper ViT-L/14@336px zero-shot, coco-karpathy-5k", "i2t", [58.4, 81.5, 88.1]),
        ("ECCV Caption ViT-L/14 zero-shot, coco-karpathy-1k", "t2i", [55.44, 82.32, 90.15]),
        ("ECCV Caption ViT-L/14 zero-shot, coco-karpathy-cxc", "i2t", [58.04, 81.42, 88.62]),
        ("ECCV Caption ViT-L/14 zero-shot, coco-karpathy-eccv", "t2i", [72.97, 41.77, 31.96]),
        ("reference ViT-B/32 zero-shot, coco-val2017", "t2i", [30.36, 54.79, 66.1, 30.36, 39.34, 40.86]),
        ("reference ViT-L/14 margin, coco-val2017", "i2t", [63.78, 86.54, 92.16, 63.78, 69.04, 65.07]),
        ("reference ViT-B/32 cross-entropy, flickr30k at random", "i2t", [86.0, 98.1, 99.1, 86.0, 87.28, 82.71]),
    ],
)
def test_figures_are_those_of_their_source(name, direction, values):
    assert list(ROWS[name].figures[direction].values()) == values


def test_every_row_has_a_source_and_a_name_of_its_own():
    rows = published_rows()
    assert len(ROWS) == len(rows) == 2 * (9 + 109) + 1 + 4 + 12 + 120 * (37 + 12)
    for row in rows:
        assert row.source.citation
        assert row.source.url.startswith("https://")


def test_every_protocol_can_be_asked_for_and_rows_without_one_say_why():
    for row in published_rows():
        if row.protocol is None:
            assert (row.needs, row.dataset, row.source.label) == (None, "flickr30k", "reference")
            assert row.remark == (
                "cannot be reproduced: measured on 1,000 images drawn at random without a seed, which nobody can draw "
                "again"
            )
        elif row.language is None:
            assert row.protocol in PROTOCOLS


@pytest.mark.ci
def test_a_row_that_contradicts_itself_says_so():
    contradictions = {row.name: row.contradiction for row in published_rows() if row.contradiction}
    assert contradictions == {
        "reference ViT-L/14 cross-entropy, flickr30k at random": (
            "ViT-L/14: t2i R@1 75.96 and mAP_hits@1 75.92 contradict each other, as at K = 1 they are the same"
        )
    }
    listed = {row["name"]: row["contradiction"] for row in list_published()["rows"] if row["contradiction"]}
    assert listed == contradictions


def test_models_have_the_weights_that_clip_downloads():
    from clip.clip import _MODELS

    models = published_models()
    assert {name: (model.sha256, model.file) for name, model in models.items() if model.sha256} == {
        name: tuple(url.split("/")[-2:]) for name, url in _MODELS.items()
    }
    assert {row.model for row in published_rows() if row.answerable} == set(models)
    assert tuple(models)[:9] == MODELS


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("open_clip ViT-B/16 zero-shot, coco-karpathy-5k", "extract --dataset coco --split karpathy --model ViT-B/16"),
        ("open_clip ViT-B/32 zero-shot, flickr30k-karpathy-1k", "extract --dataset flickr30k"),
        (
            "CLIP paper ViT-L/14@336px zero-shot, coco-karpathy-5k",
            "extract --dataset coco --split karpathy --prompt 'a photo of {}' --model ViT-L/14@336px",
        ),
        (
            "reference ViT-L/14 margin, coco-val2017",
            "extract --dataset coco --model ViT-L/14; clipret train --cache data/coco.h5 --reduction mean",
        ),
        (
            "reference ViT-B/32 cross-entropy, coco-val2017",
            "extract --dataset coco; clipret train --cache data/coco.h5 --loss infonce",
        ),
    ],
)
def test_a_row_says_which_commands_make_what_answers_it(name, needs):
    assert ROWS[name].needs == f"clipret {needs}"


def test_trainings_have_the_settings_that_the_reference_tells():
    margin, entropy = (
        ROWS[f"reference ViT-B/32 {loss}, coco-val2017"].training for loss in ("margin", "cross-entropy")
    )
    assert (margin["loss"], margin["reduction"], margin["margin"]) == ("margin", "mean", 0.1)
    assert entropy["loss"] == "infonce"
    assert margin["lr"] == entropy["lr"] == 1e-4
    assert not any(row.training for row in published_rows() if row.method == "zero-shot")


def test_the_list_has_all_that_a_row_has():
    listed = list_published()
    assert [row["name"] for row in listed["rows"]] == list(ROWS)
    row = ROWS["CLIP paper ViT-L/14@336px zero-shot, coco-karpathy-5k"]
    assert describe_row(row) == {
        "name": row.name,
        "source": "CLIP paper",
        "citation": row.source.citation,
        "url": "https://arxiv.org/abs/2103.00020",
        "model": "ViT-L/14@336px",
        "method": "zero-shot",
        "dataset": "coco",
        "protocol": "coco-karpathy-5k",
        "language": None,
        "prompt": "a photo of {}",
        "caption_clean": "none",
        "remark": "the paper tells the words that stand before a caption, and neither punctuation nor case",
        "contradiction": "",
        "needs": row.needs,
        "digits": 1,
        "figures": row.figures,
    }
    assert listed["remarks"] == {
        "open_clip": "CLIP_benchmark's own table of OpenAI's models differs from these by up to 0.4 points",
        "open_clip multilingual": "mean: over the languages; figures by language with --json",
        "reference": "mAP@K is divided by the matching items found in the top K (mAP_hits)",
    }


def test_rows_are_read_once_and_cannot_be_changed():
    assert published_rows() is published_rows()
    with pytest.raises(dataclasses.FrozenInstanceError):
        published_rows()[0].model = "another"
    assert isinstance(published_rows()[0], PublishedRow)


def digest_of(rows):
    figures = [[row.name, row.protocol, row.split, row.figures] for row in rows]
    return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()


def test_no_figure_has_changed_since_all_were_compared_with_their_sources():
    """After a change, compare the values with their sources again and put the new digests here."""
    by_hand = [row for row in published_rows() if row.model in MODELS and not row.language]
    assert digest_of(by_hand) == "2bdc263e549da9594baf408608601aa59d86257215ac6f8044c381d626987e6b"
    assert digest_of(published_rows()) == "1afb9132ccae935d63c100450247b4098d63d7258b367652576d13a698d33e35"
