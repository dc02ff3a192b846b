"""Frozen encoders: one file and one row of FAMILIES a family. Importing this loads no library."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from clipret.backbones.halves import LIBRARIES, Library
from clipret.backbones.packages import require_packages
from clipret.errors import BackboneError

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
    needs   the packages that are imported, as pip calls them
    extra   of this package, that installs them
    parts   rows with needs and an extra of their own, if a model needs only some of the packages, by its name
    """

    module: str
    prefix: str
    names: str
    needs: tuple[str, ...] = ()
    extra: str | None = None
    parts: Mapping[str, Library] = field(default_factory=dict)

    def packages(self) -> dict[str, str | None]:
        """Every package that a model of the family can need -> the extra that installs it."""
        rows = ((self.needs, self.extra), *((part.needs, part.extra) for part in self.parts.values()))
        return {package: extra for needs, extra in rows for package in needs}


FAMILIES: Mapping[str, Family] = {
    "openai": Family(
        "clipret.backbones.openai",
        prefix="",
        names="OpenAI's name (ViT-B/32, RN50, ...), tiny-emoji, or the path of a checkpoint",
    ),
    "open_clip": Family(
        "clipret.backbones.open_clip",
        prefix="open_clip:",
        names="open_clip:MODEL/TAG, open_clip:local-dir:FOLDER, open_clip:hf-hub:ORG/NAME",
        needs=("open_clip_torch",),
        extra="open-clip",
    ),
    "hf": Family(
        "clipret.backbones.hf",
        prefix="hf:",
        names="hf:FOLDER, hf:ORG/NAME of the Hugging Face hub (transformers)",
        needs=("transformers",),
        extra="hf",
    ),
    "pair": Family(
        "clipret.backbones.pair",
        prefix="pair:",
        names="pair:IMAGE+TEXT, IMAGE timm/NAME or hf/NAME, TEXT st/NAME or hf/NAME, NAME a folder or of the hub",
        parts=LIBRARIES,
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

    name = str(name_or_path)
    settings = {"device": device, "precision": choose_precision(precision, device=device), "compiled": compiled}
    module = _module_of(name)
    if not family_of(name).prefix:
        return module.load(name, download_root=download_root, **settings)
    from clipret.backbones.library import LibraryBackbone
    from clipret.backbones.trial import require_working, usable

    with usable(name):
        backbone = module.load(name, download_root=download_root, **settings)
        if isinstance(backbone, LibraryBackbone):
            require_working(backbone)
        backbone.prepare()
    return backbone


def load_tokenizer(name_or_path: str, *, download_root: Path | None = None) -> "Tokenizer":
    """The tokenizer of a model, without its weights. Raises BackboneError as load_backbone does."""
    name = str(name_or_path)
    module = _module_of(name)
    if not family_of(name).prefix:
        return module.load_tokenizer(name, download_root=download_root)
    from clipret.backbones.trial import usable

    with usable(name):
        return module.load_tokenizer(name, download_root=download_root)


def _module_of(name: str) -> ModuleType:
    """The module of a model's family. Raises BackboneError when there is no such family, or a package is missing."""
    row = family_of(name)
    prefix = name.partition(":")[0]
    # Of one letter it is a drive of Windows.
    if not row.prefix and len(prefix) > 1 and prefix.isidentifier() and prefix != name and not Path(name).exists():
        raise BackboneError(f"--model {name}: there is no family '{prefix}:'; expected {model_help()}")
    require_packages(row.needs, name=name, extra=row.extra)
    return importlib.import_module(row.module)
