"""Checkpoints in every form that people have, read as clip.load reads them; and what is none, in one line."""

import argparse
import contextlib
import hashlib
import os
import pickle
import random
import resource
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from backbone_models import CAPTIONS, pictures
from checkpoint_files import (
    Call,
    Declared,
    huge_memo,
    nested_lists,
    pickled,
    rewritten,
    save_archive,
    save_script,
    uneven_clip,
    zip_of,
)
from conftest import TOWERS

from clipret.backbones import Backbone, load_backbone
from clipret.backbones.checkpoints import load_checkpoint
from clipret.errors import BackboneError


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """(family, form) -> the path of a checkpoint."""
    folder, paths = tmp_path_factory.mktemp("forms"), {}
    for family in TOWERS:
        model = uneven_clip(family)
        state = model.state_dict()
        for form in ("state dict", "legacy", "safetensors", "archive"):
            paths[family, form] = folder / f"{family} {form}.pt"
        torch.save(state, paths[family, "state dict"])
        torch.save(state, paths[family, "legacy"], _use_new_zipfile_serialization=False)
        safetensors.torch.save_file(state, paths[family, "safetensors"])
        save_archive(model, paths[family, "archive"])
    return paths


@pytest.fixture(scope="module")
def state(forms):
    """The state dict of the small transformer."""
    return torch.load(forms["transformer", "state dict"], weights_only=True)


def load(path):
    return load_checkpoint(path, device="cpu")[0]


def same(model, other):
    """Whether two models have equal weights, to the bit; how many batches trained them changes no feature."""
    weights, others = model.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(
        weights[name].dtype == others[name].dtype and torch.equal(weights[name], others[name])
        for name in weights
        if not name.endswith("num_batches_tracked")
    )


@pytest.mark.parametrize("form", ["state dict", "legacy", "archive"])
def test_features_are_those_of_clips_own_loader_to_the_bit(forms, family, form):
    import clip

    path = forms[family, form]
    ours = load_backbone(str(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, preprocess = clip.load(str(path), device="cpu", jit=False)
    theirs = Backbone(str(path), ours.weights_sha256, ours.library, model.float().eval(), preprocess, "float32")
    assert same(ours.model, model)
    assert not same(ours.model, uneven_clip(family)), "clip's rounding to float16 would not show"
    pixels, ids = pictures(3, side=64), ours.pad(ours.tokenize(CAPTIONS)[0])
    assert torch.equal(ours.encode_image(pixels), theirs.encode_image(pixels))
    assert torch.equal(ours.encode_text(ids), theirs.encode_text(ids))
    assert str(ours.preprocess) == str(preprocess)


def test_safetensors_hold_the_same_model(forms, family):
    assert same(load(forms[family, "safetensors"]), load(forms[family, "state dict"]))


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


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


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


def changed(state, **tensors):
    return state | {name.replace("__", "."): value for name, value in tensors.items()}


SAVED = {
    "a module": (
        lambda state: uneven_clip("transformer"),
        "holds a whole pickled module (clip.model.CLIP), which only its own code can read; where that is, save its "
        "weights: torch.save(model.state_dict(), PATH).",
    ),
    "a module in a dict": (
        lambda state: {"model": torch.nn.Linear(2, 2)},
        "holds a whole pickled module (torch.nn.modules.linear.Linear), which only its own code can read; where that "
        "is, save its weights: torch.save(model.state_dict(), PATH).",
    ),
    "no tensors": (
        lambda state: {"epoch": 3},
        "holds no tensors by name; save a CLIP's weights by torch.save(model.state_dict(), PATH).",
    ),
    "two models": (
        lambda state: {"state_dict": state, "ema": prefixed(state, "module.")},
        "holds several CLIPs, ema/module.* and state_dict/*; save the wanted one alone: torch.save(WEIGHTS, PATH).",
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
        "holds ln_final.bias of shape (65,) where the rest of it asks for (64,).",
    ),
    "another width": (
        lambda state: changed(state, visual__proj=torch.zeros(64, 31), ln_final__bias=torch.zeros(65)),
        "holds visual.proj of shape (64, 31) where the rest of it asks for (64, 32), and 1 more of other shapes.",
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
        "other features than the model that was trained.",
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
        "holds values in visual.proj beyond 65,504, the most of float16, to which clip rounds weights.",
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
    os.mkfifo(tmp_path / "pipe")
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


def test_a_file_that_may_not_be_read_is_one_line(forms, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = forms["transformer", "state dict"]
    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(BackboneError) as caught:
        load_backbone(str(path))
    assert str(caught.value) == f"cannot read {path}: Permission denied."


def holds_a_call(call):
    """What a hostile file may hold in each place that a reader looks at."""
    return {
        "root": lambda state: call,
        "beside a state dict": lambda state: {"state_dict": state, "hook": call},
        "in a tensor's place": lambda state: changed(state, visual__proj=call),
        "as a key": lambda state: {"state_dict": state, call: 1},
    }


@pytest.mark.parametrize("place", holds_a_call(None))
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_runs_nothing(place, protocol, zipped, state, tmp_path):
    marker = tmp_path / "MARKER"
    for function, argument in ((os.system, f"touch {marker}"), (exec, f"open({str(marker)!r}, 'w')")):
        content = holds_a_call(Call(function, argument))[place](state)
        torch.save(content, tmp_path / "x.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        if isinstance(content, dict) and "state_dict" in content:
            load(tmp_path / "x.pt")
        else:
            with pytest.raises(
                BackboneError, match=r"holds no tensors by name;|holds visual\.proj as \w+\.(system|exec);"
            ):
                load(tmp_path / "x.pt")
    assert not marker.exists()


def test_no_other_pickle_of_an_archive_is_read(forms, tmp_path):
    marker = tmp_path / "MARKER"
    hostile = pickle.dumps(Call(os.system, f"touch {marker}"), protocol=2)

    def change(name, content):
        if name.endswith(".pkl") and not name.endswith("/data.pkl"):
            return hostile
        return b"import os" if "/code/" in name else content

    path = rewritten(forms["resnet", "archive"], tmp_path / "x.pt", change=change)
    assert zipfile.ZipFile(path).read("resnet archive/constants.pkl") == hostile
    assert same(load(path), load(forms["resnet", "archive"]))
    assert not marker.exists()


def test_an_archives_own_code_is_not_run(tmp_path, run):
    marker = tmp_path / "MARKER"
    save_script(tmp_path / "evil.pt", marker=marker)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(tmp_path / "evil.pt")
    assert marker.exists(), "the archive is harmless, and the test says nothing"
    marker.unlink()
    status, _, errors = run("extract", "--dataset", "emoji", "--model", "evil.pt", "--out", "o.h5")
    assert (status, errors) == (
        1,
        "error: evil.pt holds no tensors by name; save a CLIP's weights by torch.save(model.state_dict(), PATH).\n",
    )
    assert not marker.exists()


@contextlib.contextmanager
def little_memory():
    """No more than half a GiB beyond what is taken."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (512 << 20), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def modules_in_modules(depth):
    """A TorchScript module that holds the same module twice, and so on: 2^depth of them by their names."""
    one = b"c__torch__.M\nM\n)\x81"
    return (
        b"\x80\x02" + one + b"q\x00" + b"".join(one + b"}(U\x01ah\x00U\x01bh\x00ubq\x00" for _ in range(depth)) + b"."
    )


def huge_clip():
    from clip.model import CLIP

    with torch.device("meta"):
        model = CLIP(1 << 14, 224, 12, 1 << 14, 32, 77, 49408, 1 << 14, 64, 12)
    return pickled({name: Declared(tensor.shape) for name, tensor in model.state_dict().items()})


BOMBS = {
    "zeros for a pickle": (
        bytes(1 << 27),
        "holds 134,217,728 bytes of objects beside its tensors; at most 4,194,304 are read: save the weights alone, by "
        "torch.save(model.state_dict(), PATH).",
    ),
    "memo": (huge_memo(), "holds no tensors by name; save a CLIP's weights by torch.save(model.state_dict(), PATH)."),
    "depth": (
        nested_lists(1 << 18),
        "holds no tensors by name; save a CLIP's weights by torch.save(model.state_dict(), PATH).",
    ),
    "a deep key": (
        b"\x80\x02}" + b")" + b"\x85" * (1 << 18) + b"Ns.",
        "holds no tensors by name; save a CLIP's weights by torch.save(model.state_dict(), PATH).",
    ),
    "modules": (modules_in_modules(60), "holds a TorchScript module of more or deeper parts than any CLIP."),
    "a long word": (
        b"\x80\x02\x8d" + (1 << 40).to_bytes(8, "little") + b"a.",
        "is damaged, or not as torch saves: the pickle in it cannot be read; copy it again.",
    ),
    "names": (
        pickled(
            {f"visual.conv{row}.weight": Declared((1,)) for row in range(1, 4001)}
            | {name: Declared((1,)) for name in ("text_projection", "token_embedding.weight", "ln_final.weight")}
        ),
        "holds 4,003 tensors, more than any CLIP.",
    ),
    "declared sizes": (
        huge_clip(),
        "declares tensors of 314,853,687,300 bytes, which a file of {size:,} bytes does not hold.",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_file_declares_takes_no_memory(name, tmp_path):
    content, message = BOMBS[name]
    path = zip_of(tmp_path / "x.pt", pickled=content, storages={"0": bytes(4)})
    with little_memory(), pytest.raises(BackboneError) as caught:
        load(path)
    assert str(caught.value) == f"{path} {message.format(size=path.stat().st_size)}"


def test_storages_are_measured_against_the_file(forms, state, tmp_path):
    large = forms["transformer", "state dict"]
    entry = f"{large.stem}/data/0"

    def declare(size):
        path = tmp_path / f"{size}.pt"
        with zipfile.ZipFile(large) as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
            new.getinfo(entry).file_size = size
        return path

    with little_memory():
        for size, message in {
            1 << 40: f"declares 1,099,511,627,776 bytes for {entry}, more than a checkpoint has",
            20_000: f"is cut short: {entry} in it ends early; copy it again",
            100: f"is damaged: {entry} in it cannot be read (Bad CRC-32 for file '{entry}'); copy it again",
        }.items():
            with pytest.raises(BackboneError) as caught:
                load(declare(size))
            assert str(caught.value) == f"{tmp_path / f'{size}.pt'} {message}."
    for left, message in {
        None: f"is incomplete: {entry} is not in it; copy it again",
        100: "is damaged: storage 0 is smaller than a tensor in it; copy it again",
    }.items():
        path = rewritten(
            large,
            tmp_path / "x.pt",
            change=lambda name, content, left=left: content if name != entry else left and content[:left],
        )
        with pytest.raises(BackboneError) as caught:
            load(path)
        assert str(caught.value) == f"{path} {message}."


def damaged(content, generator):
    """A file with up to three bytes changed or cut short, most often where its structure is."""
    content = bytearray(content)
    if generator.random() < 0.2:
        return content[: generator.randrange(len(content))]
    for _ in range(generator.randint(1, 3)):
        begin = generator.choice([0, max(0, len(content) - 20_000), generator.randrange(len(content))])
        place = min(len(content) - 1, begin + generator.randrange(20_000))
        content[place] = generator.choice(
            [0, 255, generator.randrange(256), content[place] ^ 1 << generator.randrange(8)]
        )
    return content


def require_lines_or_weights(forms, tmp_path, *, count):
    for form in ("state dict", "legacy", "archive", "safetensors"):
        generator, path = random.Random(form), tmp_path / "x.pt"
        whole, expected = forms["resnet", form].read_bytes(), load(forms["resnet", form])
        for _ in range(count):
            path.write_bytes(damaged(whole, generator))
            try:
                model, message = load(path), ""
            except BackboneError as error:
                model, message = None, str(error)
            assert len(message) < 600
            assert "\n" not in message
            # Only zips have checksums.
            assert message or form in ("legacy", "safetensors") or same(model, expected)


def test_a_damaged_file_is_one_line_or_the_same_weights(forms, tmp_path):
    require_lines_or_weights(forms, tmp_path, count=8)


@pytest.mark.slow
def test_many_damaged_files_are_one_line_or_the_same_weights(forms, tmp_path):
    require_lines_or_weights(forms, tmp_path, count=300)


@pytest.mark.parametrize("form", ["state dict", "legacy", "archive", "safetensors"])
def test_loading_warns_of_nothing(form, forms, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_backbone(str(forms["transformer", form]))
    assert (caught, *capfd.readouterr()) == ([], "", "")


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
