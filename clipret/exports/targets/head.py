"""The head alone, as clipret keeps it, with a reader of it in numpy."""

import importlib.util
import inspect
import shutil
from pathlib import Path

import numpy as np

from clipret.exports.targets import head_reader
from clipret.exports.targets.target import Source, Target, Way, unit
from clipret.machine.tensors import open_tensors
from clipret.runs import HEAD

READER = "head_reader.py"
# The kinds of heads and types of tensors that it reads.
_KINDS, _TYPES = ("linear", "adapter", "gated", "mlp"), ("F16", "F32", "F64")


def refusal(source: Source) -> str | None:
    """Why numpy cannot read the head; None: it can."""
    kind = source.head.kind
    if kind not in _KINDS:
        return f"its reader in numpy is for heads of kind {' or '.join(_KINDS)}, and this is of kind {kind}"
    types = {dtype for name, dtype in open_tensors(source.head_file).dtypes.items() if name in source.head.tensors}
    if types - {*_TYPES}:
        return f"its tensors are {', '.join(sorted(types))}, which numpy does not have"
    return None


def write(source: Source, folder: Path) -> None:
    """head.safetensors, byte for byte, and head_reader.py."""
    shutil.copyfile(source.head_file, folder / HEAD)
    (folder / READER).write_text(inspect.getsource(head_reader), encoding="utf-8")


def _embedded(folder: Path, texts: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spec = importlib.util.spec_from_file_location("head_reader", folder / READER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    embed = module.read_head(folder / HEAD)
    return unit(embed(texts, "text")), unit(embed(images, "image"))


TARGET = Target(
    refusal=refusal,
    write=write,
    ways={
        "numpy": Way(
            _embedded,
            code='import sys\n\nsys.path.insert(0, "{folder}")\nfrom head_reader import read_head\n\n'
            'embed = read_head("{folder}/head.safetensors")\nembeddings = embed(features, "image")',
            needs="numpy",
        )
    },
    encoder=False,
)
