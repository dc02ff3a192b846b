"""What is no checkpoint of CLIP, or none that clip computes with: one line each, on its exact text."""

import argparse
import pickle
import warnings

import pytest
import safetensors.torch
import torch

from clipret.backbones import load_backbone
from clipret.errors import BackboneError
from tests.helpers import system
from tests.helpers.checkpoint_files import changed, load, prefixed, uneven_clip


@pytest.fixture(scope="module")
def state():
    """The state dict of the small transformer."""
    return uneven_clip("transformer").state_dict()


SAVED = {
    "a module": (
        lambda state: uneven_clip("transformer"),
        "holds a whole pickled module (clip.model.CLIP), which only its own code can read; save its "
        "weights where that code is installed: torch.save(model.state_dict(), PATH).",
    ),
    "a module in a dict": (
        lambda state: {"model": torch.nn.Linear(2, 2)},
        "holds a whole pickled module (torch.nn.modules.linear.Linear), which only its own code can read; save "
        "its weights where that code is installed: torch.save(model.state_dict(), PATH).",
    ),
    "no tensors": (
        lambda state: {"epoch": 3},
        "holds no tensors by name; save a CLIP's weights by torch.save(model.state_dict(), PATH).",
    ),
    "two models": (
        lambda state: {"state_dict": state, "ema": prefixed(state, "module.")},
        "holds several CLIPs, ema/module.* and state_dict/*; save the one you need alone: torch.save(WEIGHTS, PATH).",
    ),
    "another model": (
        lambda state: {"conv.weight": torch.zeros(3), "conv.\x1b[31m": torch.zeros(3), "c": torch.zeros(3)},
        "holds 3 tensors by other names (conv.weight, conv.\\x1b[31m and 1 more); expected OpenAI's, as in "
        "visual.conv1.weight, token_embedding.weight, ln_final.weight, text_projection. --model takes OpenAI's "
        "published models by name, without a file.",
    ),
    "Hugging Face's": (
        lambda state: {"vision_model.embeddings.class_embedding": torch.zeros(3), "logit_scale": torch.zeros(())},
        "holds 2 tensors by Hugging Face's names (vision_model.embeddings.class_embedding, logit_scale); expected "
        "OpenAI's, as in visual.conv1.weight, token_embedding.weight, ln_final.weight, text_projection. --model takes "
        "OpenAI's published models by name, without a file.",
    ),
    "a tensor missing": (
        lambda state: {f"module.{name}": value for name, value in state.items() if "ln_1.weight" not in name},
        "lacks module.visual.transformer.resblocks.0.ln_1.weight, module.visual.transformer.resblocks.1.ln_1.weight, "
        "module.transformer.resblocks.0.ln_1.weight and 1 more; expected every tensor of clip's model, by OpenAI's "
        "names.",
    ),
    "a tower of another library": (
        lambda state: {name if name.startswith("visual.") else f"text.{name}": value for name, value in state.items()},
        "holds 62 tensors by other names (text.positional_embedding, text.text_projection and 60 more); expected "
        "OpenAI's, as in visual.conv1.weight, token_embedding.weight, ln_final.weight, text_projection. --model takes "
        "OpenAI's published models by name, without a file.",
    ),
    "a size missing": (
        lambda state: {name: value for name, value in state.items() if name != "visual.proj"},
        "lacks visual.proj; expected every tensor of clip's model, by OpenAI's names.",
    ),
    "another shape": (
        lambda state: changed(state, ln_final__bias=torch.zeros(65)),
        "holds ln_final.bias of shape (65,); its other tensors require (64,).",
    ),
    "another width": (
        lambda state: changed(state, visual__proj=torch.zeros(64, 31), ln_final__bias=torch.zeros(65)),
        "holds visual.proj of shape (64, 31); its other tensors require (64, 32), and 1 more of other shapes.",
    ),
    "other dimensions": (
        lambda state: changed(state, positional_embedding=torch.zeros(3)),
        "has positional_embedding of shape (3,); expected 2 dimensions, none of them 0.",
    ),
    "a narrow tower": (
        lambda state: changed(state, visual__conv1__weight=torch.zeros(8, 3, 16, 16)),
        "has a vision transformer 8 wide, which has no attention heads of 64 as clip's have.",
    ),
    "wider heads": (
        lambda state: changed(state, visual__conv1__weight=torch.zeros(1280, 3, 2, 2)),
        "has a vision transformer 1280 wide, as open_clip's ViT-H-14, whose attention heads are wider than the 64 of "
        "clip's models; clip would compute other features than that model does.",
    ),
    "another vocabulary": (
        lambda state: changed(state, token_embedding__weight=torch.zeros(21128, 64)),
        "has 21,128 tokens; clip's tokenizer needs 49,408.",
    ),
    "long captions": (
        lambda state: changed(state, positional_embedding=torch.zeros(5000, 64)),
        "reads captions of 5,000 tokens; clipret takes at most 4,096.",
    ),
    "adapters": (
        lambda state: changed(state, visual__transformer__lora_A=torch.zeros(3)),
        "holds visual.transformer.lora_A beside clip's own tensors; clip's model has no such part, and would compute "
        "other features than the trained model.",
    ),
    "NaN": (
        lambda state: changed(state, ln_final__bias=torch.full((64,), torch.nan)),
        "holds NaN or infinite values in ln_final.bias; its training diverged, or the file is damaged.",
    ),
    "infinity": (
        lambda state: changed(state, visual__proj=state["visual.proj"] - torch.eye(64, 32) * torch.inf),
        "holds NaN or infinite values in visual.proj; its training diverged, or the file is damaged.",
    ),
    "beyond float16": (
        lambda state: changed(state, visual__proj=state["visual.proj"] * 1e8),
        "holds values in visual.proj above 65,504, the maximum of float16, to which clip rounds weights.",
    ),
}


@pytest.mark.parametrize("name", SAVED)
def test_what_is_no_clip_is_one_line(name, state, tmp_path):
    make, message = SAVED[name]
    torch.save(make(state), tmp_path / "saved.pt")
    with pytest.raises(BackboneError) as caught:
        load(tmp_path / "saved.pt")
    assert str(caught.value) == f"{tmp_path / 'saved.pt'} {message}"


KINDS = {
    "complex64": lambda value: value.to(torch.complex64),
    "int64": lambda value: value.to(torch.int64),
    "bool": lambda value: value > 0,
    "float8_e4m3fn": lambda value: value.to(torch.float8_e4m3fn),
    "quantized": lambda value: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
    "sparse": lambda value: value.to_sparse(),
    "meta": lambda value: value.to("meta"),
    "a lazy view": lambda value: torch._neg_view(value),
    "argparse.Namespace": lambda value: argparse.Namespace(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_no_real_numbers_are_named(kind, state, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(changed(state, visual__proj=KINDS[kind](state["visual.proj"])), tmp_path / "saved.pt")
    with pytest.raises(BackboneError) as caught:
        load(tmp_path / "saved.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'saved.pt'} holds visual.proj as {kind}; expected float16, bfloat16, float32 or float64; "
        f"convert the weights and save them again."
    )


@pytest.mark.parametrize(("kind", "name"), [("complex64", "complex64"), ("float8_e4m3fn", "F8_E4M3")])
def test_safetensors_name_them_too(kind, name, state, tmp_path):
    safetensors.torch.save_file(changed(state, visual__proj=KINDS[kind](state["visual.proj"])), tmp_path / "x.pt")
    with pytest.raises(BackboneError, match=rf"holds visual\.proj as {name}; expected float16"):
        load(tmp_path / "x.pt")


OTHER_FILES = {
    "nothing": (b"", "is empty; copy or download it again."),
    "text": (b"hello", "is no checkpoint: it begins with b'hello'."),
    "escapes": (b"\x1b[31mred and more", "is no checkpoint: it begins with b'\\x1b[31mred and'."),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "is a git-lfs pointer, not the file that it stands for; fetch that: git lfs pull.",
    ),
    "page": (
        b"\n<!DOCTYPE html><title>Not found</title>",
        "is a web page, not a checkpoint; download the file itself, by a link that needs no login.",
    ),
    "page behind a mark": (
        b"\xef\xbb\xbf<HTML>",
        "is a web page, not a checkpoint; download the file itself, by a link that needs no login.",
    ),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as features caches are; --model takes the weights of an encoder."),
    "gzip": (b"\x1f\x8b\x08\x00", "is compressed by gzip; unpack it first: gunzip."),
    "pickle": (
        pickle.dumps({"a": 1}),
        "is a pickle that torch.save did not write; save the weights by torch.save(model.state_dict(), PATH).",
    ),
    "zip": (
        b"PK\x05\x06" + bytes(18),
        "is a zip archive, but not one that torch.save or torch.jit.save wrote: it has no data.pkl.",
    ),
    "damaged zip": (
        b"PK\x03\x04" + bytes(99),
        "is cut short or damaged: its zip directory cannot be read; copy it again.",
    ),
    "damaged safetensors": (
        b"\x09\x00\x00\x00\x00\x00\x00\x00{nothing}",
        "is cut short or damaged: Error while deserializing header: invalid JSON in header: key must be a string at "
        "line 1 column 2; copy it again.",
    ),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_file_of_another_kind_says_what_it_is(name, tmp_path):
    content, message = OTHER_FILES[name]
    (tmp_path / "file.pt").write_bytes(content)
    with pytest.raises(BackboneError) as caught:
        load_backbone(str(tmp_path / "file.pt"))
    assert str(caught.value) == f"{tmp_path / 'file.pt'} {message}"


def test_what_is_no_regular_file_is_never_read(tmp_path):
    system.make_pipe(tmp_path / "pipe")
    names = "RN50, .*, tiny-emoji"
    for path, message in {
        tmp_path: f"--model {tmp_path} is a folder; give the checkpoint in it, or one of {names}",
        tmp_path
        / "pipe": f"--model {tmp_path}/pipe is a pipe or a device; give a checkpoint's file, or one of {names}",
        "/dev/zero": f"--model /dev/zero is a pipe or a device; give a checkpoint's file, or one of {names}",
        "/proc/self/mem": r"/proc/self/mem is empty; copy or download it again\.$",
        "/proc/kmsg": r"/proc/kmsg is empty; copy or download it again\.$",
        "a\0b": f"unknown model 'a\0b'; expected one of {names}",
        "x" * 5000: f"unknown model 'x*'; expected one of {names}",
    }.items():
        with pytest.raises(BackboneError, match=f"^{message}"):
            load_backbone(str(path))


@pytest.mark.parametrize(
    ("file", "prefix"), [("config.json", "hf:"), ("open_clip_config.json", "open_clip:local-dir:")]
)
def test_a_folder_of_another_library_says_how_it_is_named(file, prefix, tmp_path):
    (tmp_path / file).write_text("{}")
    with pytest.raises(BackboneError) as caught:
        load_backbone(str(tmp_path))
    assert (
        str(caught.value)
        == f"--model {tmp_path} is a folder with a model of another library: --model {prefix}{tmp_path}"
    )


def test_a_file_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "locked.pt"
    path.write_bytes(b"PK")
    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(BackboneError) as caught:
        load_backbone(str(path))
    assert str(caught.value) == f"cannot read {path}: Permission denied."


def test_the_command_line_prints_the_line(state, tmp_path, run):
    (tmp_path / "page.pt").write_text("<!DOCTYPE html><title>Not found</title>")
    torch.save({"state_dict": {"visual.proj": torch.zeros(2)}}, tmp_path / "part.pt")
    torch.save({"state_dict": changed(state, logit_scale=torch.tensor(1j))}, tmp_path / "complex.pt")
    for name, message in {
        "page.pt": "is a web page, not a checkpoint; download the file itself, by a link that needs no login.",
        "part.pt": "holds a tensor by other names (visual.proj); expected OpenAI's, as in visual.conv1.weight, "
        "token_embedding.weight, ln_final.weight, text_projection. --model takes OpenAI's published models by name, "
        "without a file.",
        "complex.pt": "holds logit_scale as complex64; expected float16, bfloat16, float32 or float64; convert the "
        "weights and save them again.",
    }.items():
        status, output, errors = run("extract", "--dataset", "emoji", "--model", name, "--out", "o.h5")
        assert (status, output, errors) == (1, "", f"error: {name} {message}\n")
        assert not (tmp_path / "o.h5").exists()
