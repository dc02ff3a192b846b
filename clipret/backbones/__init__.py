"""Frozen encoders: one file and one row of FAMILIES a family. Importing this loads no library."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipret.backbones.protocol import Backbone, Tokenizer

__all__ = ["FAMILIES", "Family", "family_of", "load_backbone", "load_tokenizer", "model_help"]


@dataclass(frozen=True)
class Family:
    """Encoders that one module loads.

    module  has `load(name, *, device, precision, compiled, download_root)`, which returns a protocol.Backbone, and
            `load_tokenizer(name, *, download_root)`, which returns a protocol.Tokenizer and loads no weights
    prefix  what the names of these models begin with; "" for names that begin with no other family's prefix
    names   the names, for --help
    """

    module: str
    prefix: str
    names: str


FAMILIES: Mapping[str, Family] = {
    "openai": Family(
        "clipret.backbones.openai",
        prefix="",
        names="OpenAI's name (ViT-B/32, RN50, ...), tiny-emoji, or the path of a checkpoint",
    ),
}


def family_of(name: str) -> Family:
    """The family whose prefix the name begins with, the longest such prefix."""
    return max((row for row in FAMILIES.values() if name.startswith(row.prefix)), key=lambda row: len(row.prefix))


def model_help() -> str:
    """The names that --model takes, for --help."""
    return "; ".join(row.names for row in FAMILIES.values()) + "."


def load_backbone(
    name_or_path: str,
    *,
    device: str = "cpu",
    precision: str = "auto",
    compiled: bool = False,
    download_root: Path | None = None,
) -> "Backbone":
    """Load a frozen encoder.

    name_or_path   what a family of FAMILIES takes: for OpenAI's CLIP one of OpenAI's names (downloaded by clip when
                   missing), a bundled model, or the path of a checkpoint in a form that load_checkpoint takes
    device         cpu or cuda
    precision      fp32, fp16 (CUDA only), bf16, or auto: fp32 on the CPU and, as clip loads it, fp16 on CUDA
    compiled       whether torch.compile makes kernels of the towers
    download_root  where downloaded weights are kept; the family's own folder by default

    Raises UsageError when the device cannot compute in the precision, and BackboneError when the family's library is
    missing, the name is unknown, the weights cannot be fetched, or the file is not such a checkpoint.
    """
    from clipret.machine.devices import choose_precision

    precision, name = choose_precision(precision, device=device), str(name_or_path)
    module = importlib.import_module(family_of(name).module)
    return module.load(name, device=device, precision=precision, compiled=compiled, download_root=download_root)


def load_tokenizer(name_or_path: str, *, download_root: Path | None = None) -> "Tokenizer":
    """The tokenizer of a model, without its weights. Raises BackboneError as load_backbone does."""
    name = str(name_or_path)
    return importlib.import_module(family_of(name).module).load_tokenizer(name, download_root=download_root)
