"""An image encoder and a text encoder that have never met: pair:timm/NAME+st/NAME.

The cache has no projections: heads start in closed form (retrieval.baseline).
"""

import importlib
import re
from pathlib import Path
from types import ModuleType

from clipret.backbones.halves import LIBRARIES
from clipret.backbones.hub import digest_of
from clipret.backbones.library import LibraryBackbone
from clipret.backbones.packages import require_packages
from clipret.backbones.tokenizing import LibraryTokenizer
from clipret.backbones.unimodal import Half
from clipret.errors import BackboneError

PREFIX = "pair:"


def load(name: str, *, device: str, precision: str, compiled: bool, download_root: Path | None) -> LibraryBackbone:
    """A frozen pair by its name, in eval mode; see backbones.load_backbone. Raises BackboneError."""
    parts = split_name(name)
    halves: dict[str, Half] = {}
    for side, (library, rest) in parts.items():
        halves[side] = getattr(_module_of(library), f"load_{side}")(rest, download_root=download_root)
    image, text = halves["image"], halves["text"]
    for half in halves.values():
        half.side.model.to(device)
    return LibraryBackbone(
        name=name,
        family="pair",
        library="; ".join(dict.fromkeys((image.library, text.library))),
        weights_sha256=digest_of([*image.files, *text.files]),
        image=image.side,
        text=text.side,
        preprocessing=image.preprocessing,
        precision=precision,
        compiled=compiled,
        aligned=False,
        details={**image.details, **text.details},
    )


def load_tokenizer(name: str, *, download_root: Path | None) -> LibraryTokenizer:
    """The text encoder's tokenizer; no weights are read. Raises BackboneError."""
    library, rest = split_name(name)["text"]
    return _module_of(library).load_tokenizer(rest, download_root=download_root)


def split_name(name: str) -> dict[str, tuple[str, str]]:
    """image, text -> the key of LIBRARIES and what follows it. Raises BackboneError for any other form.

    The + between them is the one before a library's key, so that folders may have others in their names.
    """
    rest = name.removeprefix(PREFIX)
    starts = [match.start() for match in re.finditer(rf"\+(?=(?:{'|'.join(LIBRARIES)})[/:])", rest)]
    if len(starts) > 1:
        raise BackboneError(
            f"--model {name} can be divided at more than one +; rename the folder whose name has "
            f"'{rest[starts[-1] :][:4]}' in it."
        )
    halves = (rest[: starts[0]], rest[starts[0] + 1 :]) if starts else rest.partition("+")[::2]
    parts = {side: _part(half, name, side=side) for side, half in zip(("image", "text"), halves, strict=True)}
    for library, _ in parts.values():
        row = LIBRARIES[library]
        require_packages(row.needs, name=name, extra=row.extra)
    return parts


def _part(half: str, name: str, *, side: str) -> tuple[str, str]:
    match = re.fullmatch(r"(\w+)[/:](.+)", half, flags=re.DOTALL)
    if match is None or side not in getattr(LIBRARIES.get(match[1]), "sides", ()):
        offered = " or ".join(f"{key}/{row.example}" for key, row in LIBRARIES.items() if side in row.sides)
        raise BackboneError(
            f"--model {name}: the {side} encoder is '{half}'; expected {PREFIX}IMAGE+TEXT with {side} encoder "
            f"{offered}, or a folder behind the /."
        )
    return match[1], match[2]


def _module_of(library: str) -> ModuleType:
    return importlib.import_module(LIBRARIES[library].module)
