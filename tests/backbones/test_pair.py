"""Pairs of encoders that have never met: features against their own libraries', names, and what is refused."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipret.backbones import load_backbone, load_tokenizer
from clipret.backbones.loading import explained
from clipret.backbones.unimodal import PADDING
from clipret.errors import BackboneError
from tests.helpers.backbone_models import error_of, spread_of
from tests.helpers.pair_models import CAPTIONS, image_features, pictures, text_features

EXACT = 1e-5


@pytest.mark.parametrize("name", ["timm_dinov2", "timm_convnext"])
def test_images_of_timm_are_encoded_as_timm_does(pair_models, name):
    import timm

    backbone = load_backbone(pair_models.pair(name))
    model = timm.create_model(f"local-dir:{pair_models[name]}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        expected = model(torch.stack([transform(image.convert("RGB")) for image in pictures()]))
    assert spread_of(expected) > 100 * EXACT
    assert error_of(image_features(backbone), expected) < EXACT
    assert backbone.widths["image"] == expected.shape[1]


@pytest.mark.parametrize(("name", "pooling"), [("hf_dinov2", "pooler_output"), ("hf_vit", "class token")])
def test_images_of_transformers_are_encoded_as_transformers_does(pair_models, name, pooling):
    """A pooler without weights of its own is not a random one: the class token is taken."""
    from transformers import AutoImageProcessor, AutoModel

    backbone = load_backbone(pair_models.pair(name))
    with explained("transformers", name), torch.inference_mode():
        processor = AutoImageProcessor.from_pretrained(str(pair_models[name]), backend="pil")
        # What is transparent it may put on white, if it takes such images at all.
        converts = getattr(processor, "do_convert_rgb", False)
        images = [image if converts else image.convert("RGB") for image in pictures()]
        pixels = processor(images=images, return_tensors="pt")
        outputs = AutoModel.from_pretrained(str(pair_models[name])).eval()(**pixels)
    expected = outputs.pooler_output if pooling == "pooler_output" else outputs.last_hidden_state[:, 0]
    assert backbone.details["image_pooling"] == pooling
    assert spread_of(expected) > 100 * EXACT
    assert error_of(image_features(backbone), expected) < EXACT


@pytest.mark.parametrize("name", ["minilm", "minilm_dense"])
def test_text_of_sentence_transformers_is_encoded_as_it_does_before_it_normalises(pair_models, name):
    from sentence_transformers import SentenceTransformer

    backbone = load_backbone(pair_models.pair(text=name))
    with explained("sentence_transformers", name):
        model = SentenceTransformer(str(pair_models[name]), device="cpu")
    normalised = model.encode(CAPTIONS, convert_to_tensor=True)
    del model[-1]
    expected = model.encode(CAPTIONS, convert_to_tensor=True, normalize_embeddings=False)
    assert error_of(torch.nn.functional.normalize(expected), normalised) < EXACT
    assert not torch.allclose(expected, normalised, atol=1e-2)
    assert spread_of(expected) > 100 * EXACT
    assert error_of(text_features(backbone), expected) < EXACT
    pooling = {"minilm": "Pooling mean", "minilm_dense": "Pooling mean, Dense"}[name]
    assert backbone.details["text_pooling"] == pooling
    assert backbone.details.get("text_prompt", "") == {"minilm": "", "minilm_dense": "query: "}[name]


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("bert", "pooler_output"), ("bert_without_pooler", "mean over the tokens"), ("t5", "mean over the tokens")],
)
def test_text_of_transformers_is_encoded_as_transformers_does(pair_models, name, pooling):
    from transformers import AutoModelForTextEncoding, AutoTokenizer

    backbone = load_backbone(pair_models.pair(text=name))
    with explained("transformers", name), torch.inference_mode():
        tokenizer = AutoTokenizer.from_pretrained(str(pair_models[name]))
        inputs = tokenizer(CAPTIONS, padding="max_length", max_length=24, truncation=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        outputs = AutoModelForTextEncoding.from_pretrained(str(pair_models[name])).eval()(**inputs)
    if pooling == "pooler_output":
        expected = outputs.pooler_output
    else:
        rows = zip(outputs.last_hidden_state, inputs["attention_mask"].bool(), strict=True)
        expected = torch.stack([states[mask].mean(dim=0) for states, mask in rows])
    assert backbone.details["text_pooling"] == pooling
    assert spread_of(expected) > 100 * EXACT
    assert error_of(text_features(backbone), expected) < EXACT


@pytest.mark.parametrize("name", ["minilm", "bert", "t5"])
def test_a_caption_has_the_same_feature_whatever_is_encoded_beside_it(pair_models, name):
    """Masked text is cut to the longest of a batch."""
    backbone = load_backbone(pair_models.pair(text=name))
    ids, _ = backbone.tokenize(CAPTIONS)
    assert len({len(row) for row in ids}) > 1
    assert backbone.pad(ids).shape[1] == max(map(len, ids)) < backbone.context_length
    assert backbone.pad(ids).min() == PADDING
    together = text_features(backbone)
    for row, caption in enumerate(CAPTIONS):
        assert error_of(text_features(backbone, [caption]), together[row : row + 1]) < EXACT


@pytest.mark.parametrize("name", ["minilm", "minilm_dense", "bert"])
def test_a_tokenizer_is_that_of_its_encoder_without_its_weights(pair_models, name, monkeypatch):
    backbone = load_backbone(pair_models.pair(text=name))
    monkeypatch.setattr("safetensors.torch.load_file", None)
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", None)
    tokenizer = load_tokenizer(pair_models.pair(text=name))
    captions = [*CAPTIONS, "dog " * 40, "dog " * 20 + "d"]
    (ours, counts), (theirs, expected) = tokenizer(captions), backbone.tokenize(captions)
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert counts.tolist() == expected.tolist()
    assert counts.max() > tokenizer.context_length == backbone.context_length == 24
    assert [tokenizer.is_too_long(text) for text in captions] == (counts > 24).tolist()


def test_a_token_of_the_caption_that_is_also_the_padding_counts(pair_models, tmp_path):
    folder = shutil.copytree(pair_models["bert_without_pooler"], tmp_path / "bert")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": "[SEP]"}))
    image = f"pair:timm/{pair_models['timm_dinov2']}"
    ours, theirs = load_backbone(f"{image}+hf/{folder}"), load_backbone(pair_models.pair(text="bert_without_pooler"))
    assert error_of(text_features(ours), text_features(theirs)) < EXACT


def test_what_is_recorded_of_a_pair(pair_models):
    backbone = load_backbone(pair_models.pair("timm_convnext"))
    assert backbone.family == "pair"
    assert not backbone.aligned
    assert list(backbone.projections()) == ["logit_scale"]
    assert re.fullmatch(r"timm [\d.]+\w*; sentence-transformers [\d.]+\w*", backbone.library)
    assert backbone.preprocessing == "32 px, timm center 0.8, bilinear, mean 0.5/0.4/0.3, std 0.2/0.3/0.4"
    digest = r"[0-9a-f]{12}"
    details = {
        "image_encoder": f"timm convnext_atto, config.json {digest}",
        "image_pooling": "the model's own",
        "text_encoder": f"BertModel, configs {digest}",
        "tokenizer": f"BertTokenizer {digest}, 24 tokens, lower-cased, padding masked",
        "text_pooling": "Pooling mean",
    }
    assert list(backbone.details) == list(details)
    for name, words in details.items():
        assert re.fullmatch(words, backbone.details[name]), name
    assert backbone.widths == {"image": 20, "text": 32}


def test_the_digest_is_of_both_encoders_files(pair_models, tmp_path):
    names = [pair_models.pair(), pair_models.pair("timm_convnext"), pair_models.pair(text="bert")]
    digests = [load_backbone(name).weights_sha256 for name in names]
    assert len(set(digests)) == 3
    folder = shutil.copytree(pair_models["minilm_dense"], tmp_path / "st")
    name = f"pair:timm/{pair_models['timm_dinov2']}+st/{folder}"
    before = load_backbone(name).weights_sha256
    dense = folder / "2_Dense" / "model.safetensors"
    tensors = load_file(dense)
    save_file({key: tensor + 1 for key, tensor in tensors.items()}, dense)
    assert load_backbone(name).weights_sha256 != before


@pytest.mark.parametrize("side", ["image", "text"])
def test_features_that_are_not_the_librarys_are_refused(pair_models, side):
    backbone = load_backbone(pair_models.pair("hf_dinov2"))
    inputs = torch.zeros(2, 28, 28, 3, dtype=torch.uint8)
    if side == "text":
        inputs = backbone.pad(backbone.tokenize(CAPTIONS[:2])[0])
    features = getattr(backbone, f"encode_{side}")(inputs)
    backbone.require_exact(side, inputs=inputs, features=features)
    with pytest.raises(BackboneError, match=rf"^{side} features of pair:.* differ from the library's own output by "):
        backbone.require_exact(side, inputs=inputs, features=features * 1.01)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_pair_can_be_sent_to_another_process_and_computed_in_bfloat16(pair_models, any_bfloat16, precision):
    backbone = load_backbone(
        pair_models.pair("hf_dinov2"), precision={"float32": "fp32", "bfloat16": "bf16"}[precision]
    )
    again = pickle.loads(pickle.dumps(backbone))
    assert (again.name, again.precision) == (backbone.name, precision)
    assert torch.equal(text_features(again), text_features(backbone))
    assert torch.equal(image_features(again), image_features(backbone))
    pickle.loads(pickle.dumps(backbone.crop))
