"""transformers' models: what is computed equals what the library computes, and is what goes into the projections."""

import pickle

import numpy as np
import pytest
import torch

from clipret import EvalConfig, ExtractConfig, FeatureCache, TrainConfig, VerifyConfig, evaluate, extract, train, verify
from clipret.backbones import hf, load_backbone
from clipret.backbones.hf_openai import clip_weights
from clipret.backbones.library import LibraryBackbone
from clipret.backbones.loading import quiet
from clipret.backbones.openai import OpenAIClip
from clipret.errors import BackboneError
from tests.conftest import StopAfter
from tests.helpers.backbone_models import error_of, pictures, spread_of
from tests.helpers.caches import arrays
from tests.helpers.child_extraction import kill_extraction
from tests.helpers.hf_models import KINDS, SIDE, clip_tokenizer, openai_clip, randomised
from tests.helpers.hf_reference import CAPTIONS, LONG, embeddings_of, inputs_of, library_features


@pytest.mark.parametrize("captions", [CAPTIONS, LONG], ids=["short", "long"])
@pytest.mark.parametrize("kind", KINDS)
def test_features_times_projection_equal_what_the_library_computes(hf_folders, kind, captions):
    backbone = load_backbone(f"hf:{hf_folders(kind)}")
    ours = embeddings_of(backbone, captions)
    expected = library_features(hf_folders(kind), captions, length=backbone.context_length)
    for side, values in expected.items():
        assert error_of(ours[side], values) < 2e-6, side
        # Inputs that make no difference would hide anything.
        assert spread_of(values) > 0.02, side


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_can_be_pickled_and_computes_in_fewer_bits(hf_folders, any_bfloat16, kind):
    backbone = load_backbone(f"hf:{hf_folders(kind)}", precision="bf16")
    again = pickle.loads(pickle.dumps(backbone))
    inputs = inputs_of(backbone, CAPTIONS)
    for one, other in zip(
        embeddings_of(backbone, CAPTIONS).values(), embeddings_of(again, CAPTIONS).values(), strict=True
    ):
        assert torch.equal(one, other)
    assert torch.equal(again.pad(again.tokenize(CAPTIONS)[0]), inputs["text"])
    assert len(pickle.dumps(backbone.crop)) < 2_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_has_the_same_feature_alone_and_beside_longer_ones(hf_folders, kind):
    backbone = load_backbone(f"hf:{hf_folders(kind)}")
    together = backbone.encode_text(backbone.pad(backbone.tokenize([*CAPTIONS, *LONG])[0]))
    for row, caption in enumerate(CAPTIONS):
        alone = backbone.encode_text(backbone.pad(backbone.tokenize([caption])[0]))
        assert error_of(alone[0], together[row]) < 2e-6


def test_other_features_are_refused(hf_folders):
    backbone = load_backbone(f"hf:{hf_folders('siglip')}")
    inputs = inputs_of(backbone, CAPTIONS)
    features = backbone.encode_text(inputs["text"])
    with pytest.raises(BackboneError, match=r"^text features of hf:\S+ times .* differ .*transformers \d"):
        backbone.require_exact("text", inputs=inputs["text"], features=features.flip(0))


def test_a_model_without_a_pooled_output_is_said(hf_changed):
    folder = hf_changed("siglip", vision_config__vision_use_head=False)
    with pytest.raises(
        BackboneError,
        match=r"^the image side of this model has no pooled output in transformers \d\S+; clipret needs it\.$",
    ):
        load_backbone(f"hf:{folder}")


def test_openais_architecture_runs_through_our_own_towers_with_the_same_features(hf_folders, monkeypatch):
    ours = load_backbone(f"hf:{hf_folders('openai')}")
    monkeypatch.setattr(hf, "is_openai", lambda *_, **__: False)
    theirs = load_backbone(f"hf:{hf_folders('openai')}")
    assert (type(ours), type(theirs)) == (OpenAIClip, LibraryBackbone)
    for name in ("family", "library", "weights_sha256", "preprocessing", "details", "widths", "context_length"):
        assert getattr(ours, name) == getattr(theirs, name), name
    captions = [*CAPTIONS, *LONG]
    one, other = inputs_of(ours, captions), inputs_of(theirs, captions)
    assert torch.equal(one["image"], other["image"])
    assert error_of(ours.encode_image(one["image"]), theirs.encode_image(other["image"])) < 2e-6
    assert error_of(ours.encode_text(one["text"]), theirs.encode_text(other["text"])) < 2e-6
    for name, values in theirs.projections().items():
        np.testing.assert_array_equal(ours.projections()[name], values)


def test_openais_vocabulary_and_weights_give_what_clips_own_checkpoint_gives(hf_changed, tmp_path):
    folder = hf_changed("openai")
    torch.manual_seed(1)
    # In OpenAI's checkpoints weights are rounded to float16.
    model = randomised(openai_clip(words=49408)).half().float()
    with quiet():
        model.save_pretrained(folder)
        clip_tokenizer(words=49408).save_pretrained(folder)
    torch.save(clip_weights(model), tmp_path / "clip.pt")
    ours, clips = load_backbone(f"hf:{folder}"), load_backbone(str(tmp_path / "clip.pt"))
    texts, pixels = ["a red dog", "Two MEN ride, on the small train: 3!", *LONG], pictures(3, side=SIDE)
    (rows, counts), (expected, expected_counts) = ours.tokenize(texts), clips.tokenize(texts)
    np.testing.assert_array_equal(np.concatenate(rows), np.concatenate(expected))
    np.testing.assert_array_equal(counts, expected_counts)
    assert torch.equal(ours.encode_text(ours.pad(rows)), clips.encode_text(clips.pad(expected)))
    assert torch.equal(ours.encode_image(pixels), clips.encode_image(pixels))


@pytest.mark.parametrize(
    "fields",
    [
        {"text_config__layer_norm_eps": 1e-6},
        {"vision_config__layer_norm_eps": 1e-6},
        {"vision_config__hidden_act": "gelu"},
        {"text_config__num_attention_heads": 2},
        {"vision_config__num_attention_heads": 4},
    ],
    ids=str,
)
def test_what_differs_from_openais_architecture_runs_as_the_library_has_it(hf_changed, fields):
    folder = hf_changed("openai", **fields)
    backbone = load_backbone(f"hf:{folder}")
    assert isinstance(backbone, LibraryBackbone)
    ours = embeddings_of(backbone, CAPTIONS)
    for side, values in library_features(folder, CAPTIONS, length=77).items():
        assert error_of(ours[side], values) < 2e-6


def test_the_end_of_text_of_openais_first_configs_is_understood(hf_changed):
    folder = hf_changed("openai", text_config__eos_token_id=2)
    backbone = load_backbone(f"hf:{folder}")
    assert isinstance(backbone, OpenAIClip)
    assert error_of(embeddings_of(backbone, LONG)["text"], library_features(folder, LONG, length=77)["text"]) < 2e-6


def test_nothing_is_logged_and_no_progress_drawn(hf_folders, capfd):
    load_backbone(f"hf:{hf_folders('siglip')}")
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def settings(hf_folders, coco_root, tmp_path):
    """Of an extraction in batches of 16."""

    def make(kind, **changes):
        values = {
            "dataset": "coco",
            "root": coco_root,
            "model": f"hf:{hf_folders(kind)}",
            "out": tmp_path / f"{kind}.h5",
        }
        return ExtractConfig(**(values | {"batch_size": 16, "workers": 0, "device": "cpu"} | changes))

    return make


@pytest.mark.parametrize("kind", ["openai", "siglip", "altclip", "chinese", "metaclip2", "dual"])
def test_a_model_goes_through_all_stages(settings, kind, tmp_path):
    result = extract(settings(kind))
    assert (result["images"], result["problems"]) == (80, 0)
    cache = FeatureCache(result["cache"])
    assert cache.inputs["backbone"] == "hf"
    assert {"architecture", "tokenizer", "pooling"} <= set(cache.inputs)
    run = train(TrainConfig(cache=cache.path, runs_dir=tmp_path / "runs", epochs=1))["run"]
    report = evaluate(EvalConfig(head=run))
    assert list(report["results"]) == ["zero-shot", "trained"]
    assert verify(VerifyConfig(cache.path, sample=8))["sound"]


def test_an_interrupted_extraction_goes_on_to_the_same_bytes(settings, tmp_path):
    extract(settings("siglip"))
    config = settings("siglip", out=tmp_path / "stopped.h5")
    for batches in (3, 12):
        with pytest.raises(KeyboardInterrupt):
            extract(config, on_progress=StopAfter(batches))
    extract(config)
    assert arrays(config.out) == arrays(settings("siglip").out)


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["openai", "siglip", "chinese"])
def test_a_killed_extraction_goes_on_to_the_same_bytes(settings, children, kind, tmp_path):
    extract(settings(kind))
    config = settings(kind, out=tmp_path / "killed.h5", workers=1)
    kill_extraction(config, children)
    done = extract(config)
    assert 0 < done["extracted_images"] + done["extracted_captions"] < 80 + 480
    assert arrays(config.out) == arrays(settings(kind).out)
