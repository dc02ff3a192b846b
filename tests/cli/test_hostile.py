"""Files and numbers that are hostile or damaged, on the command line: one line, the right status, at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipret.machine.tensors import open_tensors, write_tensors
from clipret.retrieval import ranks_file as rankings
from tests.helpers import system
from tests.sweeps.test_combining import LAUGHS


@pytest.fixture
def measured(run, cache_path):
    """A folder with made.h5 and runs/r, a run that was trained and measured."""
    assert run("train", "--cache", cache_path, "--epochs", 0, "--name", "r", "-q")[0] == 0
    assert run("eval", "--head", "runs/r", "-q", "--resamples", 0)[0] == 0
    return Path("runs/r")


def config(text):
    return lambda folder: (folder / "config.json").write_text(text)


def pipe(name):
    def make(folder):
        (folder / name).unlink()
        system.make_pipe(folder / name)

    return make


def link(name, target):
    def make(folder):
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return make


def head(change, checked=True):
    """Write the head with other tensors; unchecked: as another program does, without a checksum."""

    def make(folder):
        path = folder / "head.safetensors"
        metadata, tensors = open_tensors(path).metadata, change(load_file(path))
        if checked:
            write_tensors(path, tensors, metadata={name: text for name, text in metadata.items() if name != "sha256"})
        else:
            save_file(tensors, path, metadata=metadata)

    return make


def every(dtype):
    return lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()}


def no_heads(folder):
    """Ranks that name no heads, under a checksum that is right."""
    path = folder / "ranks.safetensors"
    file = open_tensors(path)
    tensors = {name: tensor.numpy() for name, tensor in file.read_unchecked().items()}
    about = json.loads(file.metadata["clipret"])
    about["protocols"][0]["heads"] = []
    text = json.dumps(about)
    metadata = {"clipret": text, "sha256": rankings._digest(text, tensors)}
    save_file({name: torch.from_numpy(values.copy()) for name, values in tensors.items()}, path, metadata=metadata)


EVAL, RESUME, REPEAT = "eval --head runs/r", "train --resume runs/r", "train --config runs/r/config.json"
COMPARE = "compare runs/r zero-shot"
NOT_FLOATS = "expected F16 or BF16 or F32 or F64; train it again."
CASES = {
    "a config of brackets": (
        config("[" * 100_000),
        REPEAT,
        1,
        "runs/r/config.json cannot be read: it nests too deep; train the run again with this clipret.",
    ),
    "a config of brackets to go on with": (
        config("[" * 100_000),
        RESUME,
        1,
        "runs/r/config.json cannot be read: it nests too deep; train the run again with this clipret.",
    ),
    "a config without a cache": (
        config('{"format":1,"config":{"cache":null},"cache":{"path":"x","fingerprint":"y"}}'),
        REPEAT,
        2,
        "runs/r/config.json: --cache is None; expected a path.",
    ),
    "a config that is no text": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe{}"),
        EVAL,
        1,
        "runs/r/config.json cannot be read: it is not UTF-8 text: byte 0 is 0xff; train the run again with this "
        "clipret.",
    ),
    "a config of NaN": (
        config('{"format": 1, "config": {"lr": NaN}}'),
        REPEAT,
        1,
        "runs/r/config.json cannot be read: it has NaN where a number is expected; train the run again with this "
        "clipret.",
    ),
    "a config that is a device": (
        link("config.json", "/dev/zero"),
        REPEAT,
        1,
        "runs/r/config.json cannot be read: it is a device, not a file; train the run again with this clipret.",
    ),
    "a config that is a pipe": (
        pipe("config.json"),
        EVAL,
        1,
        "runs/r/config.json cannot be read: it is a pipe, not a file; train the run again with this clipret.",
    ),
    "a head that is a pipe": (
        pipe("head.safetensors"),
        EVAL,
        1,
        "runs/r/head.safetensors is not a readable safetensors file (it is a pipe, not a file); expected one "
        "written by clipret train.",
    ),
    "a head that is a device": (
        link("head.safetensors", "/dev/zero"),
        EVAL,
        1,
        "runs/r/head.safetensors is not a readable safetensors file (it is a device, not a file); expected one "
        "written by clipret train.",
    ),
    "a head of float8": (
        head(every(torch.float8_e4m3fn), checked=False),
        EVAL,
        1,
        f"head runs/r/head.safetensors cannot be used: image_weight is kept as F8_E4M3; {NOT_FLOATS}",
    ),
    "a head of complex numbers": (
        head(every(torch.complex64), checked=False),
        EVAL,
        1,
        f"head runs/r/head.safetensors cannot be used: image_weight is kept as C64; {NOT_FLOATS}",
    ),
    "a head of whole numbers": (
        head(every(torch.int32), checked=False),
        EVAL,
        1,
        f"head runs/r/head.safetensors cannot be used: image_weight is kept as I32; {NOT_FLOATS}",
    ),
    "a head of truth values": (
        head(every(torch.bool), checked=False),
        EVAL,
        1,
        f"head runs/r/head.safetensors cannot be used: image_weight is kept as BOOL; {NOT_FLOATS}",
    ),
    "a head that overflows float32": (
        head(lambda tensors: {name: tensor.double() * 1e300 for name, tensor in tensors.items()}),
        EVAL,
        1,
        "tensor image_weight of head runs/r/head.safetensors has values that are not finite; train it again.",
    ),
    "a head whose weights were changed": (
        head(lambda tensors: {name: tensor * 2 for name, tensor in tensors.items()}, checked=False),
        EVAL,
        1,
        "head runs/r/head.safetensors cannot be used: its checksum does not match: it was damaged, or changed by "
        "hand; train it again.",
    ),
    "ranks without heads": (
        no_heads,
        COMPARE,
        1,
        "runs/r/ranks.safetensors cannot be read: heads is none; expected trained and zero-shot, the same for every "
        "protocol; measure again with: clipret eval",
    ),
    "ranks that are a pipe": (
        pipe("ranks.safetensors"),
        COMPARE,
        1,
        "runs/r/ranks.safetensors cannot be read: it is a pipe, not a file; measure again with: clipret eval",
    ),
    "a head that is a pipe beside its ranks": (
        pipe("head.safetensors"),
        COMPARE,
        1,
        "head runs/r/head.safetensors cannot be read: it is a pipe, not a file.",
    ),
}


@pytest.mark.parametrize(("spoil", "words", "status", "text"), CASES.values(), ids=CASES.keys())
def test_a_spoiled_run_is_one_line(run, measured, spoil, words, status, text):
    spoil(measured)
    assert run(*words.split()) == (status, "", f"error: {text}\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--seeds 1000000000", "--seeds is '1000000000'; expected at most 10,000 seeds."),
        ("--random 1000000000 --grid range.yaml", "--random is 1000000000; expected at most 100,000."),
        ("--grid laughs.yaml", "laughs.yaml, line 1 is not a grid: &a9 is an alias; write the values out."),
        ("--grid deep.yaml", "deep.yaml, line 1 is not a grid: it nests deeper than 4 levels."),
        ("--grid /dev/zero", "/dev/zero cannot be read: it is a device, not a file."),
        ("--grid /proc/self/mem", "/proc/self/mem cannot be read: Input/output error."),
        ("--memory-limit nan", "--memory-limit is nan; expected a value above 0, at most 1000000."),
        (
            "--lr 1,2,3,4,5 --seeds 10000 --margin 0,0.1,0.2",
            "15 configurations with 10,000 seeds each are 150,000 runs, more than 100,000; give fewer values or "
            "--seeds, or draw some with --random N.",
        ),
    ],
)
def test_a_sweep_that_nobody_can_mean_is_one_line(run, cache_path, words, text):
    Path("laughs.yaml").write_text(LAUGHS)
    Path("deep.yaml").write_text("lr: " + "[" * 3000 + "]" * 3000)
    Path("range.yaml").write_text("lr: {low: 1e-5, high: 1}")
    assert run("sweep", "--cache", cache_path, "--quiet", *words.split()) == (2, "", f"error: {text}\n")
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--seeds", "1000000000"], ["--grid", "laughs.yaml"], ["--random", "1000000000"]])
def test_a_sweep_that_nobody_can_mean_takes_no_memory(tmp_path, cache_path, words):
    (tmp_path / "laughs.yaml").write_text(LAUGHS)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))"
    main = "import sys; from clipret.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", f"{limit}; {main}", "sweep", "--cache", cache_path, *words]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
