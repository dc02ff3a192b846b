"""Files that hold a CLIP, something else, or something hostile, of the tests of clipret.backbones."""

import io
import pickle
import struct
import warnings
import zipfile

import safetensors.torch
import torch

from clipret.backbones.checkpoints import load_checkpoint
from tests.conftest import TOWERS, random_clip


def uneven_clip(family):
    """A small CLIP whose weights are float32 that float16 cannot hold: what clip rounds shows."""
    model = random_clip(family)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + torch.rand_like(parameter) * 1e-3)
    return model


def save_archive(model, path):
    """A TorchScript archive as OpenAI publishes: traced, float16 where clip rounds, with three numbers as buffers."""
    from clip.model import convert_weights

    for name, number in (("input_resolution", 64), ("context_length", 77), ("vocab_size", 49408)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(number))
    ids = torch.zeros(2, 77, dtype=torch.int64)
    ids[:, 3] = 49407
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace_module(
            model, {"encode_image": torch.zeros(2, 3, 64, 64), "encode_text": ids}, check_trace=False
        )
        convert_weights(model)
        traced.save(str(path))
    return path


def save_script(path, *, marker):
    """A TorchScript archive whose code writes a file when torch.jit.load opens it."""

    class Writer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.number = 1

        @torch.jit.export
        def __getstate__(self):
            return self.number

        @torch.jit.export
        def __setstate__(self, state: int):
            self.number = state
            self.training = False
            torch.save([1, 2, 3], "MARKER")

        def forward(self, x):
            return x

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO()
        torch.jit.save(torch.jit.script(Writer()), buffer)
    buffer.seek(0)
    # The path of the marker stands in the archive's source.
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, old.read(entry).replace(b'"MARKER"', f'"{marker}"'.encode()))
    return path


def saved_forms(folder):
    """(family, form) -> the path of a checkpoint."""
    paths = {}
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


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def changed(state, **tensors):
    return state | {name.replace("__", "."): value for name, value in tensors.items()}


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def rewritten(source, path, *, change):
    """A zip with some entries changed: change(name, content) -> content, or None to leave it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = change(entry.filename, old.read(entry))
            if content is not None:
                new.writestr(entry.filename, content)
    return path


def zip_of(path, *, pickled, storages=()):
    """A zip as torch.save writes it, around a pickle of one's own."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickled)
        for key, content in dict(storages).items():
            archive.writestr(f"x/data/{key}", content)
    return path


class _Named:
    """Pickles as a global of a module: what a pickle of torch names."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class _Stored:
    def __init__(self, *pid):
        self.pid = pid


class _Pickler(pickle._Pickler):
    """Pickles records of tensors without the tensors: shapes that no machine could hold."""

    dispatch = pickle._Pickler.dispatch | {}

    def persistent_id(self, value):
        return value.pid if isinstance(value, _Stored) else None

    def save_named(self, value):
        self.write(f"c{value.module}\n{value.name}\n".encode())

    dispatch[_Named] = save_named

    def save_tensor(self, value):
        self.save(_Named("torch._utils", "_rebuild_tensor_v2"))
        self.save(value.arguments)
        self.write(pickle.REDUCE)


class Declared:
    """A tensor of a declared shape over a storage of few bytes."""

    def __init__(self, shape, *, stride=None, offset=0, key="0", storage="FloatStorage"):
        pid = _Stored("storage", _Named("torch", storage), key, "cpu", 1)
        stride = (0,) * len(shape) if stride is None else stride
        self.arguments = pid, offset, tuple(shape), tuple(stride), False, None


_Pickler.dispatch[Declared] = _Pickler.save_tensor


def pickled(value):
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def nested_lists(depth):
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def huge_memo():
    """A pickle that asks for a memo of 2^32 objects."""
    return b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b"."


def modules_in_modules(depth):
    """A TorchScript module that holds the same module twice, and so on: 2^depth of them by their names."""
    one = b"c__torch__.M\nM\n)\x81"
    return (
        b"\x80\x02" + one + b"q\x00" + b"".join(one + b"}(U\x01ah\x00U\x01bh\x00ubq\x00" for _ in range(depth)) + b"."
    )
