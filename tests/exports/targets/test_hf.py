"""Folders of transformers: what the library computes from them is what clipret computes through the head."""

import json
import re

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from clipret.backbones import load_backbone
from clipret.backbones.hf_openai import clip_weights, hf_weights
from clipret.backbones.tokens import Tokenizer
from clipret.errors import ExportError
from clipret.exports.targets import hf as target
from clipret.exports.targets.texts import cleaned
from tests.helpers.export_sources import CAPTIONS, adapter_head, linear_head, source_of, verification, verified, written
from tests.helpers.hf_models import edit_json

ODD = ["“curly”", "&amp; more", "ﬁgures", "ＡＢＣ", "ΣΑΣ"]
PLAIN = [
    *CAPTIONS,
    "  spaces   and\ttabs\n",
    "it's don't we've I'll 1234 a1b2",
    "Straße ĞÜŞ İstanbul a…b",
    "日本語 の テキスト привет",
    "emoji 😀 🇩🇪 👨‍👩‍👧",
    "<|endoftext|> inside",
    "#hash @at $5.00 50%",
    "é and e\u0301",
    "word " * 90,
    "",
]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("clip:transformer", {}),
        pytest.param("clip:transformer", {"width": 40}, marks=pytest.mark.ci),
        pytest.param("clip:transformer", {"sides": ("text",)}, marks=pytest.mark.ci),
        pytest.param("hf:openai", {}, marks=pytest.mark.ci),
        pytest.param("open_clip:openai-vit", {}, marks=pytest.mark.ci),
        pytest.param("hf:clip", {"width": 40}, marks=pytest.mark.ci),
        pytest.param("hf:altclip", {"width": 40}, marks=pytest.mark.ci),
        pytest.param("hf:chinese", {}, marks=pytest.mark.ci),
        pytest.param("hf:metaclip2", {}, marks=pytest.mark.ci),
        pytest.param("hf:dual", {"width": 40}, marks=pytest.mark.ci),
        pytest.param("hf:dual-roberta", {}, marks=pytest.mark.ci),
        # Its images have no projection.
        pytest.param("hf:siglip", {"sides": ("text",)}, marks=pytest.mark.ci),
    ],
    ids=str,
)
def test_both_libraries_give_clipret_s_embeddings(encoder, tmp_path, name, settings):
    backbone = encoder(name)
    results = verified("hf", source_of(backbone, linear_head(backbone, **settings)), tmp_path)
    assert [result["way"] for result in results] == ["transformers", "sentence-transformers"]
    for result in results:
        assert result["difference"] < 1e-6
        assert (result["texts"], result["images"]) == (4, 3)


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [
        ("clip:transformer", adapter_head, "a head of kind adapter is more than a projection"),
        ("clip:resnet", linear_head, "transformers has no class for OpenAI's ResNets"),
        ("open_clip:vit", linear_head, "is neither of OpenAI's architecture nor a model of this library"),
        ("hf:siglip", linear_head, "has no image projection, and the head has one"),
        ("hf:dual-dino", linear_head, "changes images that are cropped already"),
        ("hf:clip", lambda it: linear_head(it, biases=("image",)), "image projection of .* has no place for a bias"),
    ],
    ids=["adapter", "resnet", "other-library", "no-projection", "crop", "bias"],
)
def test_what_has_no_place_is_refused(encoder, name, head, reason):
    backbone = encoder(name)
    said = target.refusal(source_of(backbone, head(backbone)))
    assert re.search(reason, said)
    assert "\n" not in said


@pytest.fixture
def exported(encoder, tmp_path):
    """A source with a head as wide as the text features, and its folder."""
    backbone = encoder("clip:transformer")
    source = source_of(backbone, linear_head(backbone, width=64), log_scale=1.25)
    return source, written("hf", source, tmp_path / "exported")


def gelu(folder):
    edit_json(folder / "config.json", text_config__hidden_act="gelu", vision_config__hidden_act="gelu")


def transposed(folder):
    weights = load_file(folder / "model.safetensors")
    weights["text_projection.weight"] = weights["text_projection.weight"].T.contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def swapped_eos(folder):
    edit_json(folder / "config.json", text_config__eos_token_id=49406, text_config__bos_token_id=49407)


@pytest.mark.parametrize("damage", [gelu, transposed, swapped_eos])
def test_a_damaged_folder_fails_the_verification(exported, tmp_path, damage):
    source, folder = exported
    assert source.head.text_weight.shape == (64, 64)
    damage(folder)
    with pytest.raises(ExportError, match=r"^transformers gives other embeddings than clipret: they differ by \d"):
        verification("hf", source, folder, scratch=tmp_path / "scratch")


def test_the_folder_s_tokenizer_reads_as_clip_s_but_for_the_clean_up(exported):
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported[1])
    expected, _ = Tokenizer()(PLAIN)
    for text, ids in zip(PLAIN, expected, strict=True):
        assert tokenizer(text, truncation=True)["input_ids"] == ids.tolist(), text
    for text, ids in zip(ODD, Tokenizer()(ODD)[0], strict=True):
        assert tokenizer(text, truncation=True)["input_ids"] != ids.tolist(), text
        assert tokenizer(cleaned(text, exported[0].backbone), truncation=True)["input_ids"] == ids.tolist(), text


@pytest.mark.ci
def test_captions_that_the_clean_up_changes_are_compared_cleaned_and_counted(encoder, tmp_path):
    backbone = encoder("clip:transformer")
    results = verified("hf", source_of(backbone, linear_head(backbone)), tmp_path, captions=["a red bus", *ODD])
    for result in results:
        assert result["texts"] == 1 + len(ODD)
        assert result["difference"] < 1e-6
        assert result["reading"]["differ"] == len(ODD)


def test_the_config_is_complete(exported):
    config = json.loads((exported[1] / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    assert config["projection_dim"] == text["projection_dim"] == vision["projection_dim"] == 64
    assert (text["bos_token_id"], text["eos_token_id"]) == (49406, 49407)
    assert text["hidden_act"] == vision["hidden_act"] == "quick_gelu"
    # What is in it is what the library itself would say of the model.
    model = transformers.CLIPModel.from_pretrained(exported[1])
    assert model.logit_scale.item() == 1.25
    # clip's weights again.
    source, weights = exported[0], clip_weights(model)
    for name, values in source.backbone.model.state_dict().items():
        if name not in ("visual.proj", "text_projection", "logit_scale"):
            assert torch.equal(weights[name], values), name
    assert torch.equal(weights["visual.proj"], source.head.image_weight)
    assert torch.equal(weights["text_projection"], source.head.text_weight)
    theirs = hf_weights(weights)
    assert theirs.keys() == model.state_dict().keys()
    assert all(torch.equal(theirs[name], values) for name, values in model.state_dict().items())


def test_processors_of_both_generations_are_there(exported):
    folder = exported[1]
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    assert processor.tokenizer.model_max_length == 77
    assert dict(processor.image_processor.size) | {} == {"shortest_edge": 64}
    # Each alone is enough.
    for name in ("preprocessor_config.json", "processor_config.json"):
        content = (folder / name).read_text()
        (folder / name).unlink()
        assert transformers.AutoProcessor.from_pretrained(folder).image_processor.crop_size["height"] == 64
        (folder / name).write_text(content)


@pytest.mark.ci
def test_scale_and_bias_of_the_loss_are_siglip_s(encoder, tmp_path):
    backbone = encoder("hf:siglip")
    head = linear_head(backbone, sides=("text",))
    folder = written("hf", source_of(backbone, head, log_scale=1.25, bias=-7.5), tmp_path / "exported")
    model = transformers.AutoModel.from_pretrained(folder)
    assert model.logit_scale.item() == 1.25
    assert model.logit_bias.item() == -7.5


@pytest.mark.ci
@pytest.mark.parametrize("name", ["clip:transformer", "hf:altclip"])
def test_an_exported_folder_is_an_encoder_whose_zero_shot_head_is_the_trained_one(encoder, tmp_path, name):
    backbone = encoder(name)
    head = linear_head(backbone)
    folder = written("hf", source_of(backbone, head), tmp_path / "exported")
    again = load_backbone(f"hf:{folder}")
    np.testing.assert_array_equal(again.projections()["image/weight"], head.image_weight.detach().numpy())
    np.testing.assert_array_equal(again.projections()["text/weight"], head.text_weight.detach().numpy())
    assert again.context_length == backbone.context_length
