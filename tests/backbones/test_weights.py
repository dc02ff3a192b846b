import hashlib
import sys
import types
import urllib.error
import urllib.request

import pytest
import torch

from clipret.backbones import load_backbone
from clipret.errors import BackboneError, UsageError
from clipret.machine.devices import choose_precision


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(BackboneError, match=r"unknown model 'ViT-B/33'; expected one of RN50, .*, tiny-emoji, or"):
        load_backbone("ViT-B/33")


def test_without_network_the_error_says_what_to_fetch(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(
        BackboneError, match=r"cannot download the weights of RN50: no route.*Download https://.*RN50\.pt"
    ):
        load_backbone("RN50", download_root=tmp_path)


def test_a_download_that_another_file_stands_in_for_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "RN50.pt").mkdir()
    with pytest.raises(BackboneError) as caught:
        load_backbone("RN50", download_root=tmp_path)
    assert str(caught.value) == (
        f"cannot load the weights of RN50: {tmp_path}/RN50.pt exists and is not a regular file; "
        f"delete RN50.pt in the download folder, or give another one with --download-root."
    )


def test_another_project_called_clip_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "clip", types.ModuleType("clip"))
    with pytest.raises(BackboneError, match=r"is another project, not OpenAI's; run: pip uninstall clip"):
        load_backbone("RN50")


def test_a_missing_clip_gives_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "clip", None)
    with pytest.raises(BackboneError, match=r"cannot be imported .* run: pip install clip-anytorch 'setuptools"):
        load_backbone("RN50")


def test_the_weights_are_known_by_the_sha256_of_their_file(checkpoints):
    expected = hashlib.sha256(checkpoints["transformer"].read_bytes()).hexdigest()
    assert load_backbone(str(checkpoints["transformer"])).weights_sha256 == expected


def test_the_precision_is_clips_own_unless_another_is_asked_for(checkpoints):
    backbone = load_backbone(str(checkpoints["resnet"]))
    assert (backbone.precision, backbone.model.dtype, backbone.context_length) == ("float32", torch.float32, 77)
    assert choose_precision("auto", device="cuda:1") == "float16"
    assert choose_precision("fp32", device="cuda") == "float32"


def test_a_precision_that_the_device_lacks_is_refused_with_one_that_it_has(monkeypatch):
    with pytest.raises(UsageError) as caught:
        load_backbone("RN50", precision="fp16")
    assert str(caught.value) == (
        "--precision is fp16, which is for CUDA only; on the CPU use --precision fp32 or bf16."
    )
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    with pytest.raises(UsageError) as caught:
        load_backbone("RN50", precision="bf16")
    assert str(caught.value) == (
        "--precision is bf16, but this processor has no bfloat16 instructions; use --precision fp32."
    )
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert choose_precision("bf16", device="cpu") == "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(UsageError, match=r"this GPU has no bfloat16 instructions; use --precision fp16\."):
        choose_precision("bf16", device="cuda")
