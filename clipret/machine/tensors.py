"""Files of tensors: safetensors with a checksum; equal tensors give equal bytes."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from clipret.machine.files import replaced, require_file

# torch is imported when first used, as reading arrays does not need it.
if TYPE_CHECKING:
    import torch

# The dtypes of weights; not float8, complex or integers.
FLOATS = ("F16", "BF16", "F32", "F64")
_CHECKSUM = "sha256"


class TensorsError(ValueError):
    """A file is not a file of tensors, or is damaged; the message says how."""


@dataclass(frozen=True)
class TensorFile:
    """An open file of tensors; no tensor is read yet.

    metadata  text stored with the tensors
    shapes    of the tensors, by name
    dtypes    of the tensors, by name, in safetensors' notation: F32
    """

    path: Path
    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    def require_dtypes(self, dtypes: tuple[str, ...] = FLOATS, *, names: set[str] | None = None) -> None:
        """Raise TensorsError unless the tensors of these names (None: all) have one of these dtypes."""
        for name, dtype in sorted(self.dtypes.items()):
            if dtype not in dtypes and (names is None or name in names):
                raise TensorsError(f"{name} is kept as {dtype}; expected {' or '.join(dtypes)}")

    def read_unchecked(self) -> dict[str, "torch.Tensor"]:
        """The tensors, without comparing the checksum. Raises TensorsError when they cannot be read."""
        with _explained(), safe_open(self.path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in self.shapes}

    def read_arrays(self) -> dict[str, np.ndarray]:
        """As read_unchecked, as numpy arrays; not for BF16, which numpy lacks."""
        with _explained(), safe_open(self.path, framework="np") as file:
            return {name: file.get_tensor(name) for name in self.shapes}

    def read(self) -> dict[str, "torch.Tensor"]:
        """The tensors. Raises TensorsError when the checksum of write_tensors is missing or does not match."""
        tensors = self.read_unchecked()
        metadata = {name: text for name, text in self.metadata.items() if name != _CHECKSUM}
        if _CHECKSUM not in self.metadata:
            raise TensorsError("it has no checksum, which this clipret writes into every such file")
        if self.metadata[_CHECKSUM] != _checksum(tensors, metadata):
            raise TensorsError("its checksum does not match: it was damaged, or changed by hand")
        return tensors


@contextmanager
def _explained() -> Iterator[None]:
    """Turn a SafetensorError into a TensorsError, on one line."""
    try:
        yield
    except SafetensorError as error:
        message = " ".join(str(error).split()).removeprefix("Error while deserializing header: ")
        raise TensorsError(f"it is no whole safetensors file: {message}") from None


def open_tensors(path: Path) -> TensorFile:
    """Open a file of tensors, without reading them.

    Raises OSError when it is not a regular file or cannot be opened, and TensorsError when it is not a complete
    safetensors file.
    """
    require_file(path)
    with _explained(), safe_open(path, framework="np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        dtypes = {name: part.get_dtype() for name, part in slices.items()}
        return TensorFile(path, file.metadata() or {}, shapes, dtypes)


def write_tensors(path: Path, tensors: Mapping[str, "torch.Tensor"], *, metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, with a checksum of both, atomically. Raises OSError."""
    from safetensors.torch import save

    tensors = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    write_safetensors(path, save(tensors), metadata={**metadata, _CHECKSUM: _checksum(tensors, metadata)})


def write_safetensors(path: Path, saved: bytes, *, metadata: Mapping[str, str]) -> None:
    """Write the result of safetensors' `save`, with this metadata added, atomically. Raises OSError."""
    # The library writes metadata in random order, and its save_file makes files that only their owner can read.
    content = memoryview(saved)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:start])) | {"__metadata__": dict(metadata)}
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    # Tensors must start at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    with replaced(path) as unfinished, unfinished.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        file.write(content[start:])


def _apart(tensors: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The tensors, copied where several share their memory, which the library refuses to write."""
    places, apart = set(), {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in places else tensor
        places.add(place)
    return apart


def _checksum(tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str]) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
