"""Files of tensors: the same bytes each time, and what is refused."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipret.machine.tensors import TensorsError, open_tensors, write_tensors

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.tensor(1.0),
    "c": torch.zeros(0, dtype=torch.float16),
    "d": torch.ones(3, dtype=torch.bfloat16),
}
METADATA = {name: f"é {name}" for name in "zyxwvutsrqponml"}
WRITE = """
import sys, torch
from pathlib import Path
from clipret.machine.tensors import write_tensors
names = {name: torch.full((3,), float(ord(name))) for name in set("qwertyuiop")}
write_tensors(Path(sys.argv[1]), names, metadata={name: name for name in set("asdfghjkl")})
"""


def test_what_is_written_is_read_again_by_us_and_by_safetensors(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, metadata=METADATA)
    file = open_tensors(path)
    assert {name: text for name, text in file.metadata.items() if name != "sha256"} == METADATA
    assert file.shapes == {name: tuple(tensor.shape) for name, tensor in TENSORS.items()}
    assert file.dtypes == {"a": "F32", "b": "F32", "c": "F16", "d": "BF16"}
    for tensors in (file.read(), load_file(path)):
        assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.ci
def test_processes_with_other_hashes_write_the_same_bytes(tmp_path):
    """The library's order of metadata differs each time, even in one process."""
    for seed in "12":
        subprocess.run(
            [sys.executable, "-c", WRITE, tmp_path / seed], env={**os.environ, "PYTHONHASHSEED": seed}, check=True
        )
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    header = (tmp_path / "1").read_bytes()
    metadata = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]
    assert list(metadata) == sorted(metadata)


def test_every_bit_is_covered(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, metadata={"x": "y"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << (place % 8)
        path.write_bytes(broken)
        try:
            tensors = open_tensors(path).read()
        except TensorsError:
            continue
        # The header may contain blanks.
        assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
        assert open_tensors(path).metadata == {**open_tensors(path).metadata, "x": "y"}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64, torch.int8, torch.bool])
def test_what_weights_are_not_kept_as_is_refused(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2, dtype=dtype)}, path)
    with pytest.raises(TensorsError, match=r"^a is kept as \w+; expected F16 or BF16 or F32 or F64$"):
        open_tensors(path).require_dtypes()


def header(content):
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"rubbish",
        header([]),
        header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}),
        header({"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 4]}}) + bytes(4),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + bytes(4),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}) + bytes(8),
        header({"__metadata__": {"a": 1}}),
        header({"__metadata__": {"a": {"b": "c"}}}),
        (1 << 60).to_bytes(8, "little") + b"{}",
        b"\x05\0\0\0\0\0\0\0[[[[[",
    ],
)
def test_an_incomplete_file_is_a_one_line_error(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(TensorsError, match=r"^it is no whole safetensors file: [^\n]+$"):
        open_tensors(path)


def test_a_file_without_a_checksum_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(TensorsError, match=r"^it has no checksum, which this clipret writes into every such file$"):
        open_tensors(path).read()
