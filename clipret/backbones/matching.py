"""The encoder of a cache, loaded again: the same weights, read in the same way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipret.backbones import load_backbone
from clipret.backbones.protocol import Backbone
from clipret.errors import UsageError


def load_matching(
    name: str,
    *,
    inputs: Mapping[str, Any],
    cache: Path,
    model: str,
    device: str = "cpu",
    precision: str = "auto",
    download_root: Path | None = None,
) -> Backbone:
    """Load a frozen encoder by its name, and compare it with the one that a cache was extracted with.

    name       as for load_backbone
    inputs     the cache's: weights_sha256, and what else decided its features
    cache      its path, for messages
    model      what the cache calls its encoder

    Raises BackboneError as load_backbone, and UsageError when its weights differ, or its tokenizer, preprocessing or
    what else decides its features.
    """
    backbone = load_backbone(name, device=device, precision=precision, download_root=download_root)
    if backbone.weights_sha256 != inputs["weights_sha256"]:
        raise UsageError(
            f"--model is {name}, with weights {backbone.weights_sha256[:12]}; {cache} was extracted with {model}, "
            f"weights {inputs['weights_sha256'][:12]}."
        )
    # The same weights compute other features by another config, tokenizer or preprocessing.
    for part, now in {"preprocessing": backbone.preprocessing, **backbone.details}.items():
        before = inputs.get(part)
        if before is not None and before != now:
            raise UsageError(
                f"{name} is not what {cache} was extracted with ({part}: it was '{before}', and is '{now}'); name the "
                f"model's unchanged files with --model."
            )
    return backbone
