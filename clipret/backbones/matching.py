"""The encoder of a cache, loaded again: the same weights, read in the same way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipret.backbones import load_backbone
from clipret.backbones.protocol import Backbone
from clipret.errors import BackboneError, UsageError


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
    try:
        backbone = load_backbone(name, device=device, precision=precision, download_root=download_root)
    except BackboneError as error:
        if name != model:
            raise
        raise BackboneError(
            f"the encoder of {cache} cannot be loaded from where it was (if it is elsewhere now, name that with "
            f"--model): {error}"
        ) from error
    before, now = inputs["weights_sha256"][:12], backbone.weights_sha256[:12]
    if backbone.weights_sha256 != inputs["weights_sha256"] and name == model:
        raise UsageError(
            f"{name} was changed: its weights are {now} now, and {cache} was extracted with weights {before}; name the "
            f"unchanged file with --model."
        )
    if backbone.weights_sha256 != inputs["weights_sha256"]:
        raise UsageError(
            f"--model is {name}, with weights {now}; {cache} was extracted with {model}, weights {before}."
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
