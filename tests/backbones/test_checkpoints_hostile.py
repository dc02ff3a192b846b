"""Checkpoints that hold code, declare more than there is, or are damaged."""

import contextlib
import os
import pickle
import random
import resource
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from clipret.errors import BackboneError
from tests.helpers.checkpoint_files import (
    Call,
    Declared,
    changed,
    huge_memo,
    load,
    modules_in_modules,
    nested_lists,
    pickled,
    rewritten,
    same,
    save_script,
    saved_forms,
    uneven_clip,
    zip_of,
)


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    return saved_forms(tmp_path_factory.mktemp("forms"))


@pytest.fixture(scope="module")
def state():
    """The state dict of the small transformer."""
    return uneven_clip("transformer").state_dict()


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


@pytest.mark.ci
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
        "declares 314,853,687,300 bytes of tensors, but has only {size:,} bytes.",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_file_declares_takes_no_memory(name, tmp_path):
    content, message = BOMBS[name]
    path = zip_of(tmp_path / "x.pt", pickled=content, storages={"0": bytes(4)})
    with little_memory(), pytest.raises(BackboneError) as caught:
        load(path)
    assert str(caught.value) == f"{path} {message.format(size=path.stat().st_size)}"


def test_a_directory_of_more_entries_than_tensors_is_not_read(tmp_path):
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 17 << 20, 0, 0)
    (tmp_path / "x.pt").write_bytes(b"PK\3\4" + bytes(99) + end)
    with pytest.raises(BackboneError) as caught:
        load(tmp_path / "x.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'x.pt'} declares a zip directory of 17,825,792 bytes, more than a checkpoint has."
    )


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


@pytest.mark.ci
def test_a_damaged_file_is_one_line_or_the_same_weights(forms, tmp_path):
    require_lines_or_weights(forms, tmp_path, count=8)


@pytest.mark.slow
def test_many_damaged_files_are_one_line_or_the_same_weights(forms, tmp_path):
    require_lines_or_weights(forms, tmp_path, count=300)
