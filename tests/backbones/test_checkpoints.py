"""Checkpoints in every form that people have, read as clip.load reads them."""

import argparse
import hashlib
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from clipret.backbones import load_backbone
from clipret.backbones.openai import OpenAIClip
from tests.helpers.backbone_models import CAPTIONS, pictures
from tests.helpers.checkpoint_files import load, prefixed, same, saved_forms, uneven_clip


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    return saved_forms(tmp_path_factory.mktemp("forms"))


@pytest.fixture(scope="module")
def state():
    """The state dict of the small transformer."""
    return uneven_clip("transformer").state_dict()


@pytest.mark.parametrize("form", ["state dict", "legacy", "archive"])
def test_features_are_those_of_clips_own_loader_to_the_bit(forms, family, form):
    import clip

    path = forms[family, form]
    ours = load_backbone(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, preprocess = clip.load(str(path), device="cpu", jit=False)
    theirs = OpenAIClip(str(path), ours.weights_sha256, ours.library, model.float().eval(), preprocess, "float32")
    assert same(ours.model, model)
    assert not same(ours.model, uneven_clip(family)), "clip's rounding to float16 would not show"
    pixels, ids = pictures(3, side=64), ours.pad(ours.tokenize(CAPTIONS)[0])
    assert torch.equal(ours.encode_image(pixels), theirs.encode_image(pixels))
    assert torch.equal(ours.encode_text(ids), theirs.encode_text(ids))
    assert str(ours.preprocess) == str(preprocess)


def test_safetensors_hold_the_same_model(forms, family):
    assert same(load(forms[family, "safetensors"]), load(forms[family, "state dict"]))


@pytest.mark.ci
def test_weights_that_are_deflated_or_without_checksums_load(forms, state, tmp_path):
    deflated = tmp_path / "deflated.pt"
    with (
        zipfile.ZipFile(forms["transformer", "state dict"]) as old,
        zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "unchecked.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    expected = load(forms["transformer", "state dict"])
    assert same(load(deflated), expected)
    assert same(load(tmp_path / "unchecked.pt"), expected)


def test_an_openai_name_is_fetched_and_checked_by_clip_and_read_by_clipret(forms, monkeypatch, tmp_path):
    import clip

    content = forms["resnet", "archive"].read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    (tmp_path / "RN50.pt").write_bytes(content)
    monkeypatch.setitem(clip.clip._MODELS, "RN50", f"https://nowhere.invalid/{sha256}/RN50.pt")
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("an archive's code was run"))
    backbone = load_backbone("RN50", download_root=tmp_path)
    assert b"HalfStorage" in content
    assert backbone.weights_sha256 == sha256
    assert same(backbone.model, load(forms["resnet", "state dict"]))


WRAPPINGS = {
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {0: {}}}},
    "model": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
    "DataParallel": lambda state: prefixed(state, "module."),
    "open_clip": lambda state: {"name": "run", "state_dict": prefixed(state, "module."), "scaler": {"scale": 2.0}},
    "Lightning": lambda state: {
        "state_dict": prefixed(state, "model.") | {"loss.weight": torch.zeros(3)},
        "hyper_parameters": {"path": Path("x"), "names": {"a", ("b",)}, "losses": np.zeros(3), "dtype": torch.half},
    },
    "DeepSpeed": lambda state: {"module": prefixed(state, "module.clip.")},
    "a loss beside it": lambda state: state | {"logit_bias": torch.zeros(()), "classifier.weight": torch.zeros(2)},
    "constants": lambda state: (
        state | {"visual.transformer.attn_mask": torch.zeros(2), "text.position_ids": torch.ones(2)}
    ),
    "parameters": lambda state: {name: torch.nn.Parameter(value) for name, value in state.items()},
    "logit scale in a vector": lambda state: state | {"logit_scale": state["logit_scale"][None]},
    "one storage": lambda state: dict(zip(state, split(state), strict=True)),
}


def split(state):
    """The tensors as views of one long storage."""
    whole = torch.cat([value.flatten() for value in state.values()])
    parts = whole.split([value.numel() for value in state.values()])
    return [part.view(value.shape) for part, value in zip(parts, state.values(), strict=True)]


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("protocol", [2, 5])
def test_what_trainers_wrap_a_state_dict_in_is_taken_off(wrapping, protocol, forms, state, tmp_path):
    torch.save(WRAPPINGS[wrapping](state), tmp_path / "saved.pt", pickle_protocol=protocol)
    assert same(load(tmp_path / "saved.pt"), load(forms["transformer", "state dict"]))


@pytest.mark.parametrize("form", ["state dict", "legacy", "archive", "safetensors"])
def test_loading_warns_of_nothing(form, forms, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_backbone(str(forms["transformer", form]))
    assert (caught, *capfd.readouterr()) == ([], "", "")
