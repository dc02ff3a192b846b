"""Folders of open_clip: what the library computes from them is what clipret computes through the head."""

import json
import re

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipret.errors import ExportError
from clipret.exports.targets import open_clip as target
from tests.helpers.export_sources import adapter_head, linear_head, source_of, verification, verified, written
from tests.helpers.hf_models import edit_json

CONFIG = "open_clip_config.json"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("clip:transformer", {}),
        pytest.param("clip:resnet", {}, marks=pytest.mark.ci),
        pytest.param("clip:transformer", {"width": 40}, marks=pytest.mark.ci),
        pytest.param("clip:resnet", {"width": 40}, marks=pytest.mark.ci),
        pytest.param("clip:resnet", {"sides": ("text",)}, marks=pytest.mark.ci),
        pytest.param("clip:transformer", {"sides": ("image",)}, marks=pytest.mark.ci),
        # Of another library, with a vocabulary of its own.
        pytest.param("hf:openai", {}, marks=pytest.mark.ci),
        pytest.param("open_clip:openai-vit", {"width": 40}, marks=pytest.mark.ci),
        pytest.param("open_clip:vit", {"width": 40}, marks=pytest.mark.ci),
        pytest.param("open_clip:resnet", {}, marks=pytest.mark.ci),
        pytest.param("open_clip:eva02", {"width": 40}, marks=pytest.mark.ci),
        pytest.param("open_clip:convnext-mlp", {}, marks=pytest.mark.ci),
        pytest.param("open_clip:mobileclip", {}, marks=pytest.mark.ci),
        pytest.param("open_clip:coca", {}, marks=pytest.mark.ci),
        # Its images have no projection.
        pytest.param("open_clip:siglip", {"sides": ("text",)}, marks=pytest.mark.ci),
    ],
    ids=str,
)
def test_the_library_gives_clipret_s_embeddings(encoder, tmp_path, name, settings):
    backbone = encoder(name)
    head = linear_head(backbone, **settings)
    (result,) = verified("open_clip", source_of(backbone, head), tmp_path)
    assert result["difference"] < 1e-6
    assert (result["texts"], result["images"]) == (4, 3)
    # The library's own preprocessing is that of clip, bit for bit, whatever the shape.
    assert result["preprocessing"]["differ"] == 0 or name == "hf:openai"


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [
        ("clip:transformer", adapter_head, "a head of kind adapter is more than a projection"),
        ("hf:clip", linear_head, "is neither of OpenAI's architecture nor a model of this library"),
        ("open_clip:siglip", linear_head, "has no image projection, and the head has one"),
        ("clip:transformer", lambda it: linear_head(it, biases=("image",)), "no place for a bias of the image"),
        ("clip:resnet", lambda it: linear_head(it, biases=("text",)), "text side has no place for a bias"),
        ("open_clip:vit", lambda it: linear_head(it, biases=("text",)), "the text projection of .* has no place for a"),
        ("open_clip:coca", lambda it: linear_head(it, width=40), "cannot have embeddings of another width"),
        ("open_clip:convnext-mlp", lambda it: linear_head(it, width=40), "cannot have embeddings of another width"),
    ],
    ids=["adapter", "other-library", "no-projection", "image-bias", "text-bias", "slot-bias", "coca", "mlp"],
)
def test_what_has_no_place_is_refused(encoder, name, head, reason):
    backbone = encoder(name)
    said = target.refusal(source_of(backbone, head(backbone)))
    assert re.search(reason, said)
    assert "\n" not in said


@pytest.mark.parametrize("name", ["clip:transformer", pytest.param("open_clip:siglip", marks=pytest.mark.ci)])
def test_scale_and_bias_of_the_loss_are_the_model_s(encoder, tmp_path, name):
    backbone = encoder(name)
    head = linear_head(backbone, sides=("text",))
    folder = written("open_clip", source_of(backbone, head, log_scale=1.25, bias=-7.5), tmp_path / "exported")
    model = open_clip.create_model(f"local-dir:{folder}")
    assert model.logit_scale.item() == 1.25
    assert model.logit_bias.item() == -7.5


def test_the_config_says_quick_gelu_and_openai_s_preprocessing(encoder, tmp_path):
    backbone = encoder("clip:transformer")
    folder = written("open_clip", source_of(backbone, linear_head(backbone)), tmp_path / "exported")
    content = json.loads((folder / CONFIG).read_text())
    assert content["model_cfg"]["quick_gelu"] is True
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    normalise = preprocess.transforms[-1]
    assert (tuple(normalise.mean), tuple(normalise.std)) == (
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
    )
    # None of the three extra entries of OpenAI's archives, at which loading fails.
    assert load_file(folder / "open_clip_model.safetensors").keys() == model.state_dict().keys()


def test_an_exported_folder_is_an_encoder_whose_zero_shot_head_is_the_trained_one(encoder, tmp_path):
    from clipret.backbones import load_backbone

    backbone = encoder("clip:resnet")
    head = linear_head(backbone)
    folder = written("open_clip", source_of(backbone, head), tmp_path / "exported")
    again = load_backbone(f"open_clip:local-dir:{folder}").projections()
    np.testing.assert_array_equal(again["image/weight"], head.image_weight.detach().numpy())
    np.testing.assert_array_equal(again["text/weight"], head.text_weight.detach().numpy())


def gelu(folder):
    edit_json(folder / CONFIG, model_cfg__quick_gelu=False)


def transposed(folder):
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["text_projection"] = weights["text_projection"].T.contiguous()
    save_file(weights, folder / "open_clip_model.safetensors")


@pytest.mark.parametrize("damage", [gelu, transposed])
def test_a_damaged_folder_fails_the_verification(encoder, tmp_path, damage):
    backbone = encoder("clip:transformer")
    # As wide as the text features, so that the matrix fits either way.
    source = source_of(backbone, linear_head(backbone, width=64))
    folder = written("open_clip", source, tmp_path / "exported")
    assert source.head.text_weight.shape == (64, 64)
    damage(folder)
    with pytest.raises(ExportError, match=r"^open_clip gives other embeddings than clipret: they differ by \d"):
        verification("open_clip", source, folder, scratch=tmp_path / "scratch")


@pytest.mark.ci
def test_captions_are_cleaned_as_by_clip(encoder, tmp_path):
    backbone = encoder("clip:transformer")
    captions = ["a red bus", "“curly” quotes &amp; ﬁgures"]
    (result,) = verified("open_clip", source_of(backbone, linear_head(backbone)), tmp_path, captions=captions)
    assert result["texts"] == 2
    assert result["reading"]["differ"] == 0


def test_the_model_is_as_it_was_after_an_export(encoder, tmp_path):
    backbone = encoder("open_clip:vit")
    ids = backbone.pad(backbone.tokenize(["a red bus"])[0])
    before = backbone.encode_text(ids)
    written("open_clip", source_of(backbone, linear_head(backbone)), tmp_path / "exported")
    assert torch.equal(backbone.encode_text(ids), before)
