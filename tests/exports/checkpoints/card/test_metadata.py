"""The metadata is YAML that Hugging Face's own reader takes, whatever the names are."""

import pytest
import yaml

from clipret.exports.checkpoints.card.metadata import metadata, origin
from clipret.exports.checkpoints.card.text import card_text, read_figures
from tests.helpers.exported_runs import HEAD_ONLY, WHOLE, record_of


def named(record, *, model="tiny-emoji", dataset="made", run="0001"):
    encoder, data = record["encoder"] | {"model": model}, record["data"] | {"dataset": dataset}
    return record | {"encoder": encoder, "data": data, "run": run}


def test_what_the_hub_asks_for(run):
    figures = read_figures(run)
    about = yaml.safe_load(metadata(record_of(run), WHOLE, figures=figures))
    assert about.pop("model-index")[0]["name"] == run.name
    assert about == {
        "license": "other",
        "license_name": "fill-in",
        "library_name": "made",
        "pipeline_tag": "zero-shot-image-classification",
        "datasets": ["made"],
        "tags": ["clip", "image-text-retrieval", "clipret"],
        "metrics": ["R@1", "R@5", "R@10", "mAP@10", "MRR", "median_rank"],
    }
    without = yaml.safe_load(metadata(record_of(run), HEAD_ONLY, figures=None))
    assert without["pipeline_tag"] == "feature-extraction"
    assert not {"model-index", "metrics", "library_name"} & set(without)


@pytest.mark.parametrize(
    ("model", "base", "words"),
    [
        ("ViT-B/32", "openai/clip-vit-base-patch32", "OpenAI's release of CLIP; on the hub"),
        ("RN50", None, "OpenAI's release of CLIP, or a file"),
        ("hf:google/siglip-base", "google/siglip-base", "https://huggingface.co/google/siglip-base"),
        ("open_clip:hf-hub:laion/x", "laion/x", "https://huggingface.co/laion/x"),
        ("open_clip:ViT-B-32/openai", None, "open_clip, by this name and tag"),
        ("hf:model", None, "as it is named"),
        ("pair:timm:a+b:c", None, "the two encoders"),
        ("tiny-emoji", None, "the package clipret"),
    ],
)
def test_the_base_model_is_named_where_the_hub_has_it(run, model, base, words):
    about = yaml.safe_load(metadata(named(record_of(run), model=model), WHOLE, figures=None))
    assert about.get("base_model") == base
    assert words in origin(model)


HOSTILE = "a: [b]\n---\n# <b>x</b> \u202e `y` {z}"


def test_hugging_face_reads_the_card_of_hostile_names(run):
    hub = pytest.importorskip("huggingface_hub")
    figures = read_figures(run)
    for measured in figures:
        measured["cache"] = measured["cache"] | {"dataset": HOSTILE}
    text = card_text(named(record_of(run), model=HOSTILE, dataset=HOSTILE, run=HOSTILE), WHOLE, figures=figures)
    data = hub.ModelCard(text).data
    assert data.license == "other"
    assert data.datasets == ["a---b---------b-x-/b-----y---z-"]
    results = {(result.task_type, result.metric_type): result.metric_value for result in data.eval_results}
    trained = figures[0]["results"]["trained"]
    assert results["text-to-image-retrieval", "R@1"] == trained["t2i"]["R@1"]
    assert results["image-to-text-retrieval", "MRR"] == trained["i2t"]["MRR"]
    assert {result.dataset_type for result in data.eval_results} == {HOSTILE.replace("\u202e", r"\u202e")}
    assert text.count("\n---\n") == 1
