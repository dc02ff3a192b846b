"""Files of tensors written by torch and safetensors, opened without running code in them."""

import contextlib
import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import safetensors
import torch

from clipret.backbones.pickles import MOST_BYTES, StoredTensor, read_pickle

# The dtypes that can be read, by name.
DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}
_SAFETENSORS_KINDS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64"}
# Largest ratio of content to file size: deflated weights shrink to half, but whole rows of zeros to nothing.
MOST_INFLATION = 16
# 250,000 entries, for which zipfile takes half a GiB; a checkpoint has one a tensor.
_MOST_DIRECTORY = 16 << 20
_OTHER_ORDER = "was written by a machine of the other byte order; save it again on one like this"
_LEGACY_NUMBER = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_PAGE = "is a web page, not a checkpoint; download the file itself, by a link that needs no login"
_OTHER_FILES = (
    (b"version https://git-lfs", "is a git-lfs pointer, not the file that it stands for; fetch that: git lfs pull"),
    (b"<!doctype", _PAGE),
    (b"<html", _PAGE),
    (b"\x89hdf", "is an HDF5 file, as features caches are; --model takes the weights of an encoder"),
    (b"\x1f\x8b", "is compressed by gzip; unpack it first: gunzip"),
    (b"\x80", "is a pickle that torch.save did not write; save the weights by torch.save(model.state_dict(), PATH)"),
)


class TensorFile(Protocol):
    """An open file: its content, with StoredTensors, and access to the tensors."""

    root: object

    def read(self, tensor: StoredTensor) -> torch.Tensor:
        """The values of a tensor of root, whose kind is one of DTYPES."""


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open a zip or legacy file of torch, or safetensors, recognised by its content.

    Raises ValueError, which says of the file what it is instead or what is wrong with it, and OSError.
    """
    with path.open("rb") as file:
        begin = file.read(64)
        file.seek(0)
        if begin.startswith(b"PK"):
            with _zip_of(file) as archive:
                yield _ZipTensors(archive, size=os.fstat(file.fileno()).st_size)
        elif begin.startswith(b"\x80") and _LEGACY_NUMBER in begin:
            yield _LegacyTensors(file)
        elif begin[8:9] == b"{":
            with _safetensors_of(path) as opened:
                yield _SafeTensors(opened)
        else:
            raise ValueError(_describe(begin))


def _describe(begin: bytes) -> str:
    for start, description in _OTHER_FILES:
        if begin.lower().removeprefix(b"\xef\xbb\xbf").lstrip().startswith(start):
            return description
    return f"is no checkpoint: it begins with {begin[:12]!r}"


@contextlib.contextmanager
def _zip_of(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    try:
        end = zipfile._EndRecData(file)
        size = end[zipfile._ECD_SIZE] if end else 0
        archive = zipfile.ZipFile(file) if size <= _MOST_DIRECTORY else None
    except Exception as error:
        # A damaged directory can raise any error of zipfile.
        raise ValueError("is cut short or damaged: its zip directory cannot be read; copy it again") from error
    if archive is None:
        raise ValueError(f"declares a zip directory of {size:,} bytes, more than a checkpoint has")
    with archive:
        yield archive


@contextlib.contextmanager
def _safetensors_of(path: Path) -> Iterator:
    try:
        opened = safetensors.safe_open(str(path), framework="pt")
    except safetensors.SafetensorError as error:
        raise ValueError(f"is cut short or damaged: {str(error).splitlines()[0][:200]}; copy it again") from error
    with opened:
        yield opened


class _ZipTensors:
    """Files of torch.save and TorchScript: FOLDER/data.pkl, with the storages in FOLDER/data/KEY."""

    def __init__(self, archive: zipfile.ZipFile, *, size: int):
        self._archive = archive
        self._left = MOST_INFLATION * size
        self._storages: dict[str, bytearray] = {}
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(
                "is a zip archive, but not one that torch.save or torch.jit.save wrote: it has no data.pkl"
            )
        self._folder = pickles[0].removesuffix("data.pkl")
        order = f"{self._folder}byteorder"
        if order in archive.namelist() and self._content(order, most=16) != b"little":
            raise ValueError(_OTHER_ORDER)
        size = archive.getinfo(pickles[0]).file_size
        if size > MOST_BYTES:
            raise ValueError(
                f"holds {size:,} bytes of objects beside its tensors; at most {MOST_BYTES:,} are read: save the "
                f"weights alone, by torch.save(model.state_dict(), PATH)"
            )
        self.root = read_pickle(io.BytesIO(self._content(pickles[0], most=MOST_BYTES)))

    def read(self, tensor: StoredTensor) -> torch.Tensor:
        if tensor.key not in self._storages:
            content = self._content(f"{self._folder}data/{tensor.key}", most=self._left)
            self._left -= len(content)
            self._storages[tensor.key] = content
        return _view(self._storages[tensor.key], tensor)

    def _content(self, name: str, *, most: int) -> bytearray:
        try:
            entry = self._archive.getinfo(name)
            if entry.file_size > most:
                raise ValueError(f"declares {entry.file_size:,} bytes for {name}, more than a checkpoint has")
            # torch can leave checksums out, and then writes 0.
            entry.CRC = entry.CRC or None
            content = bytearray(entry.file_size)
            with self._archive.open(entry) as file:
                whole = file.readinto(content) == len(content) and not file.read(1)
        except KeyError:
            raise ValueError(f"is incomplete: {name} is not in it; copy it again") from None
        except (ValueError, MemoryError, OSError):
            raise
        except Exception as error:
            # A damaged entry can raise any error of zipfile and of decompression.
            raise ValueError(f"is damaged: {name} in it cannot be read ({str(error)[:200]}); copy it again") from error
        if not whole:
            raise ValueError(f"is cut short: {name} in it ends early; copy it again")
        return content


class _LegacyTensors:
    """torch.save before 1.6: five pickles, the last with the list of storages; then the storages with their lengths."""

    def __init__(self, file: BinaryIO):
        self._file = file
        begin, kinds = io.BytesIO(file.read(MOST_BYTES)), {}
        _, _, machine, self.root, keys = (read_pickle(begin, storages=kinds) for _ in range(5))
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise ValueError(_OTHER_ORDER)
        if not isinstance(keys, list) or not all(type(key) is str and key in kinds for key in keys):
            raise ValueError("is damaged: the list of its storages cannot be read; copy it again")
        self._places = self._find_storages(begin.tell(), kinds={key: kinds[key] for key in keys})
        self._storages: dict[str, bytearray] = {}

    def read(self, tensor: StoredTensor) -> torch.Tensor:
        if tensor.key not in self._storages:
            if tensor.key not in self._places:
                raise ValueError(f"is incomplete: storage {tensor.key} is not in it; copy it again")
            begin, size = self._places[tensor.key]
            self._file.seek(begin)
            self._storages[tensor.key] = bytearray(self._file.read(size))
        return _view(self._storages[tensor.key], tensor)

    def _find_storages(self, begin: int, *, kinds: dict[str, str]) -> dict[str, tuple[int, int]]:
        """Offset and size of the bytes of every storage."""
        places, end = {}, os.fstat(self._file.fileno()).st_size
        for key, kind in kinds.items():
            self._file.seek(begin)
            length = int.from_bytes(self._file.read(8), "little") * _item_size(kind)
            places[key] = begin + 8, length
            begin += 8 + length
            if begin > end:
                raise ValueError(f"is cut short or damaged: storage {key} ends behind its end; copy it again")
        return places


class _SafeTensors:
    """A file of tensors by name, open in safetensors' own reader."""

    def __init__(self, opened):
        self._opened = opened
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        self.root = {
            name: StoredTensor(
                _SAFETENSORS_KINDS.get(part.get_dtype(), part.get_dtype()), shape=tuple(part.get_shape()), key=name
            )
            for name, part in slices.items()
        }

    def read(self, tensor: StoredTensor) -> torch.Tensor:
        return self._opened.get_tensor(tensor.key)


def _item_size(kind: str) -> int:
    dtype = getattr(torch, kind, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"holds a storage of an unknown kind: {kind[:80]!r}")
    return dtype.itemsize


def _view(storage: bytearray, tensor: StoredTensor) -> torch.Tensor:
    dtype, steps = DTYPES[tensor.kind], zip(tensor.shape, tensor.stride, strict=True)
    last = tensor.offset + sum((size - 1) * step for size, step in steps)
    if last >= len(storage) // dtype.itemsize:
        raise ValueError(f"is damaged: storage {tensor.key} is smaller than a tensor in it; copy it again")
    return torch.frombuffer(storage, dtype=dtype).as_strided(tensor.shape, tensor.stride, tensor.offset)
