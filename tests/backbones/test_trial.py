"""Folders of encoders that were changed: the fingerprint follows, or one line says what does not fit."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from clipret.backbones import load_backbone, load_tokenizer
from clipret.errors import BackboneError
from tests.helpers.hf_models import edit_json
from tests.helpers.open_clip_models import ARCHITECTURES, PREPROCESSING, write_open_clip


@pytest.fixture
def vit(tmp_path):
    return write_open_clip(tmp_path / "vit", ARCHITECTURES["vit"])


def message_of(name, *, load=load_backbone):
    with pytest.raises(BackboneError) as caught:
        load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def swap_words(folder, one, other):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words[one], words[other] = words[other], words[one]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("model", "library", "inside", "change"),
    [
        ("bert", "hf", "", {"layer_norm_eps": 0.5}),
        ("bert", "hf", "", {"num_attention_heads": 4}),
        ("bert", "hf", "", {"num_hidden_layers": 1}),
        ("bert", "hf", "", None),
        ("minilm", "st", "", {"hidden_act": "relu"}),
        ("minilm", "st", "", None),
        ("minilm_dense", "st", "2_Dense", {"activation_function": "torch.nn.modules.activation.ReLU"}),
    ],
)
def test_a_pairs_texts_with_another_config_or_vocabulary_are_other_features(
    pair_models, tmp_path, model, library, inside, change
):
    folder = shutil.copytree(pair_models[model], tmp_path / "text")
    name = f"pair:timm/{pair_models['timm_dinov2']}+{library}/{folder}"
    before = load_backbone(name).details
    if change is None:
        swap_words(folder, "a", "e")
    else:
        edit_json(folder / inside / "config.json", **change)
    assert load_backbone(name).details != before


@pytest.mark.parametrize(
    ("model", "library", "change"),
    [("timm_dinov2", "timm", {"model_args__num_heads": 4}), ("hf_dinov2", "hf", {"layer_norm_eps": 0.5})],
)
def test_a_pairs_images_with_another_config_are_other_features(pair_models, tmp_path, model, library, change):
    folder = shutil.copytree(pair_models[model], tmp_path / "image")
    name = f"pair:{library}/{folder}+hf/{pair_models['bert']}"
    before = load_backbone(name).details
    edit_json(folder / "config.json", **change)
    assert load_backbone(name).details != before


def test_open_clips_colour_of_borders_is_recorded(vit):
    descriptions = set()
    for colour in (0, 200):
        settings = PREPROCESSING | {"resize_mode": "longest", "fill_color": colour}
        edit_json(vit / "open_clip_config.json", preprocess_cfg=settings)
        descriptions.add(load_backbone(f"open_clip:local-dir:{vit}").preprocessing)
    assert len(descriptions) == 2


def test_transparent_images_of_a_pair_are_as_the_processor_has_them(pair_models):
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(str(pair_models["hf_dinov2"]), backend="pil")
    values = np.random.default_rng(0).integers(0, 256, (60, 90, 4), np.uint8)
    image = Image.fromarray(values)
    expected = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    backbone = load_backbone(pair_models.pair("hf_dinov2"))
    assert np.array_equal(np.asarray(backbone.crop(image)), expected.transpose(1, 2, 0))
    assert "transparency on white" in backbone.preprocessing


@pytest.mark.parametrize("kept", [0, 1000, 100_000])
def test_truncated_weights_of_open_clip_are_said(vit, kept):
    weights = vit / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert message_of(f"open_clip:local-dir:{vit}").startswith(f"open_clip cannot load open_clip:local-dir:{vit}: ")


@pytest.mark.parametrize(
    ("model", "library", "side"),
    [("bert", "hf", "text"), ("minilm", "st", "text"), ("hf_dinov2", "hf", "image"), ("timm_dinov2", "timm", "image")],
)
def test_nobody_is_advised_to_run_a_pickle(pair_models, tmp_path, model, library, side):
    folder = shutil.copytree(pair_models[model], tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(print))
    parts = {"image": f"timm/{pair_models['timm_dinov2']}", "text": f"hf/{pair_models['bert']}"}
    parts[side] = f"{library}/{folder}"
    assert message_of(f"pair:{parts['image']}+{parts['text']}") == (
        f"the weights of {folder} are a pickle that holds more than tensors, which clipret does not run; expected "
        f"safetensors, or a pickle of a state dict."
    )


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"])
def test_a_config_of_terabytes_allocates_nothing(hf_changed, field):
    folder = hf_changed("clip", **{f"text_config__{field}": 10**9})
    assert re.fullmatch(
        rf"{re.escape(str(folder))}/config.json describes a model of ("
        r"[\d,]+ parameters, and its weights are [\d,]+ bytes; expected the config that was saved with these weights|"
        r"1,000,000,000 layers; expected at most 10,000)\.",
        message_of(f"hf:{folder}"),
    )


def test_sizes_of_other_libraries_are_compared_with_their_weights_too(vit, pair_models, tmp_path):
    edit_json(vit / "open_clip_config.json", model_cfg__text_cfg__vocab_size=10**12)
    assert "parameters, and its weights are" in message_of(f"open_clip:local-dir:{vit}")
    folder = shutil.copytree(pair_models["timm_dinov2"], tmp_path / "timm")
    edit_json(folder / "config.json", model_args__depth=10**9)
    name = f"pair:timm/{folder}+hf/{pair_models['bert']}"
    assert (
        message_of(name) == f"{folder}/config.json describes a model of 1,000,000,000 layers; expected at most 10,000."
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_std": [0, 0.1, 1]}, "has the std 0.0/0.1/1.0; expected three numbers above 0, one for each colour."),
        ({"size": {"shortest_edge": 10**7}}, "has size 10,000,000; expected at most 8,192."),
    ],
)
def test_preprocessing_that_cannot_be_meant_is_said(hf_changed, pair_models, tmp_path, values, message):
    folder = hf_changed("clip")
    edit_json(folder / "preprocessor_config.json", **values)
    assert message_of(f"hf:{folder}") == f"the preprocessing of hf:{folder} {message}"
    folder = shutil.copytree(pair_models["hf_dinov2"], tmp_path / "image")
    edit_json(folder / "preprocessor_config.json", **values)
    assert message_of(f"pair:hf/{folder}+hf/{pair_models['bert']}").endswith(message)


@pytest.mark.parametrize(
    ("values", "begins"),
    [
        ({"image_mean": [0.5, 0.5]}, "transformers cannot load hf:{}: operands could not be broadcast"),
        ({"image_mean": "x"}, "transformers cannot load hf:{}: "),
        ({"rescale_factor": None}, "the files of hf:{} do not fit together ("),
    ],
)
def test_preprocessing_of_other_types_is_said(hf_changed, values, begins):
    folder = hf_changed("clip")
    edit_json(folder / "preprocessor_config.json", **values)
    assert message_of(f"hf:{folder}").startswith(begins.format(folder))


@pytest.mark.parametrize("length", [0, 1])
def test_texts_of_no_length_are_said(hf_folders, tmp_path, length):
    folder = shutil.copytree(hf_folders("chinese"), tmp_path / "chinese")
    edit_json(folder / "tokenizer_config.json", model_max_length=length)
    assert message_of(f"hf:{folder}") == (
        f"the text side of hf:{folder} reads at most {length} tokens by its tokenizer and config; expected 3 or more: "
        f"a start, a word and an end."
    )


def test_texts_longer_than_the_models_positions_are_said(pair_models, tmp_path):
    folder = shutil.copytree(pair_models["minilm"], tmp_path / "st")
    edit_json(folder / "sentence_bert_config.json", max_seq_length=10**9)
    assert "cannot load" in message_of(f"pair:timm/{pair_models['timm_dinov2']}+st/{folder}")


def test_tokenizers_of_broken_folders_end_in_one_line(pair_models, vit, tmp_path):
    folder = shutil.copytree(pair_models["minilm"], tmp_path / "st")
    (folder / "modules.json").write_text("[" * 200_000 + "]" * 200_000)
    name = f"pair:timm/{pair_models['timm_dinov2']}+st/{folder}"
    for load in (load_tokenizer, load_backbone):
        assert "(RecursionError: " in message_of(name, load=load)
    (vit / "open_clip_config.json").write_text("[]")
    message_of(f"open_clip:local-dir:{vit}", load=load_tokenizer)


def test_weights_that_are_not_finite_are_said(hf_folders, tmp_path):
    folder = shutil.copytree(hf_folders("clip"), tmp_path / "clip")
    tensors = load_file(folder / "model.safetensors")
    tensors["vision_model.post_layernorm.weight"][0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert message_of(f"hf:{folder}") == (
        f"image features of hf:{folder} are not finite: its weights hold NaN or infinite values, or float32 is too "
        f"narrow for it. Copy the weights again, or try --precision fp32."
    )


def test_half_a_pooler_is_not_left_out(pair_models, tmp_path):
    folder = shutil.copytree(pair_models["bert"], tmp_path / "bert")
    tensors = load_file(folder / "model.safetensors")
    del tensors["pooler.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    message = message_of(f"pair:timm/{pair_models['timm_dinov2']}+hf/{folder}")
    assert "lack 1 of the tensors of a BertModel, such as pooler.dense.weight" in message
