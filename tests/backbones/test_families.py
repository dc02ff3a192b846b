"""The table of encoder families, and that one file and one row are all that a new one needs."""

import ast
import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipret import backbones, extraction
from clipret.backbones import FAMILIES, Family, family_of, load_backbone, load_tokenizer, model_help
from clipret.backbones.openai import OpenAIClip
from clipret.backbones.protocol import Backbone, TokenBackbone
from clipret.cache import FeatureCache
from clipret.config import ExtractConfig, VerifyConfig
from clipret.errors import BackboneError
from clipret.extraction import extract
from clipret.extraction.checking import check_dataset
from clipret.extraction.verification import verify
from clipret.images import padding
from tests.helpers.pixel_family import PixelEncoder

PROTOCOL = {name for name in vars(Backbone) if not name.startswith("_")}
OF_TOKENS = {name for name in vars(TokenBackbone) if not name.startswith("_")}


@pytest.fixture
def pixels(monkeypatch):
    """The one row."""
    row = Family("tests.helpers.pixel_family", prefix="pixels:", names="pixels:SIDE")
    monkeypatch.setitem(FAMILIES, "pixels", row)


def test_a_name_belongs_to_the_family_with_the_longest_prefix(pixels):
    assert family_of("pixels:8") is FAMILIES["pixels"]
    assert family_of("pixels") is family_of("/models/pixels:8.pt") is FAMILIES["openai"]


def test_help_names_what_every_family_takes(pixels):
    words = model_help()
    assert words.startswith("OpenAI's name (ViT-B/32, RN50, ...), tiny-emoji, or the path of a checkpoint; ")
    assert words.endswith("; pixels:SIDE.")
    assert all(row.names in words for row in FAMILIES.values())


def test_the_table_loads_no_library():
    code = "import sys, clipret.backbones; assert not {'torch', 'clip', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(("kind", "protocol"), [(OpenAIClip, TokenBackbone), (PixelEncoder, Backbone)])
def test_an_encoder_has_all_that_the_protocol_names(kind, protocol):
    has = set(dir(kind)) | set(kind.__dataclass_fields__)
    names = PROTOCOL | (OF_TOKENS if protocol is TokenBackbone else set())
    assert has >= names
    for name in names:
        if callable(getattr(protocol, name)):
            assert list(inspect.signature(getattr(kind, name)).parameters) == list(
                inspect.signature(getattr(protocol, name)).parameters
            )


def test_extraction_uses_what_the_protocol_names_and_nothing_else():
    used = set()
    for path in (*Path(extraction.__file__).parent.glob("*.py"), Path(padding.__file__)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1].strip("_") == "backbone":
                used.add(node.attr)
    assert used == PROTOCOL | OF_TOKENS


def test_one_file_and_one_row_are_enough_for_all_of_stage_one(pixels, coco_root, tmp_path):
    config = ExtractConfig("coco", model="pixels:8", root=coco_root, out=tmp_path / "c.h5", workers=1, device="cpu")
    result = extract(config)
    cache = FeatureCache(result["cache"])
    assert (cache.inputs["backbone"], cache.about["model"]) == ("pixels", "pixels:8")
    assert cache.inputs["preprocessing"] == "squeezed to 8 px"
    assert cache.read("image", np.arange(80)).shape == (80, 12)
    assert verify(VerifyConfig(tmp_path / "c.h5", sample=5))["sound"]


def test_check_counts_tokens_with_the_tokenizer_of_the_model(pixels, coco_root, monkeypatch):
    monkeypatch.setattr(PixelEncoder, "__init__", None)
    result = check_dataset(ExtractConfig("coco", model="pixels:8", root=coco_root))
    assert (result["model"], result["too_long"]["context_length"]) == ("pixels:8", 20)
    assert result["too_long"]["captions"] > 0


def test_a_tokenizer_is_loaded_without_weights(family, checkpoints, monkeypatch):
    """Of a published name nothing is fetched, and of a checkpoint no tensor is read."""
    monkeypatch.setattr("clipret.backbones.checkpoints.build_clip", None)
    monkeypatch.setattr("clipret.backbones.tensor_files._ZipTensors.read", None)
    monkeypatch.setattr("clipret.backbones.weights.fetch_published", None)
    assert load_tokenizer("ViT-L/14@336px").context_length == 77
    assert load_tokenizer(str(checkpoints[family])).context_length == 77
    assert load_tokenizer("tiny-emoji").context_length == 77


def test_a_tokenizer_has_the_context_length_of_its_checkpoint(tmp_path):
    import torch

    from tests.conftest import random_clip

    state = random_clip("transformer").state_dict()
    state["positional_embedding"] = state["positional_embedding"][:16].clone()
    torch.save(state, tmp_path / "short.pt")
    tokenizer, backbone = load_tokenizer(str(tmp_path / "short.pt")), load_backbone(str(tmp_path / "short.pt"))
    assert tokenizer.context_length == backbone.context_length == 16


def test_a_tokenizer_of_no_model_is_refused_as_the_model_is(tmp_path):
    (tmp_path / "page.pt").write_text("<html>")
    for name in ("ViT-B/33", str(tmp_path / "page.pt")):
        with pytest.raises(BackboneError) as refusal:
            load_tokenizer(name)
        with pytest.raises(BackboneError) as expected:
            load_backbone(name)
        assert str(refusal.value) == str(expected.value)


def test_an_encoder_of_any_family_can_be_sent_to_another_process(pixels, checkpoints):
    for name in ("pixels:8", str(checkpoints["resnet"])):
        backbone = backbones.load_backbone(name)
        assert pickle.loads(pickle.dumps(backbone)).name == name
