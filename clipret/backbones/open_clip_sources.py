"""Where open_clip's models come from: a folder, the hub's cache, or weights that open_clip has the address of."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from clipret.backbones.hub import repository_folder, weight_files
from clipret.backbones.loading import quiet, reason_of
from clipret.backbones.open_clip_tags import CONFIG, WEIGHTS
from clipret.errors import BackboneError

PREFIX = "open_clip:"
FOLDER, HUB = "local-dir:", "hf-hub:"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Source(NamedTuple):
    """Where a model comes from.

    architecture  what open_clip's functions take: a name of its own, or local-dir:FOLDER
    weights       the file
    revision      of the hub's repository; "" for other files
    quick_gelu    whether the weights were trained with QuickGELU although the architecture does not say so
    preprocess    what the weights' tag says of the preprocessing
    """

    architecture: str
    weights: Path
    revision: str = ""
    quick_gelu: bool = False
    preprocess: Mapping[str, Any] = _NOTHING


def find_source(name: str, *, download_root: Path | None) -> Source:
    """Where a model is, by a name that begins with open_clip:, downloaded if need be. Raises BackboneError."""
    architecture, revision = find_architecture(name, download_root=download_root)
    if architecture.startswith(FOLDER):
        folder = Path(architecture.removeprefix(FOLDER))
        files = weight_files(folder, preferred=WEIGHTS)
        if not files:
            raise BackboneError(f"{folder} has no weights; expected open_clip_model.safetensors beside {CONFIG}.")
        return Source(architecture, files[0], revision)
    return _find_published(architecture, tag=name.removeprefix(PREFIX).partition("/")[2], root=download_root)


def find_architecture(name: str, *, download_root: Path | None) -> tuple[str, str]:
    """What open_clip's functions take, and the revision of the hub's repository."""
    rest, revision = name.removeprefix(PREFIX), ""
    if rest.startswith(HUB):
        repository = rest.removeprefix(HUB)
        folder, revision = repository_folder(repository, option=f"{PREFIX}{FOLDER}FOLDER", cache=download_root)
    elif rest.startswith(FOLDER):
        folder = Path(rest.removeprefix(FOLDER))
    else:
        return rest.partition("/")[0], revision
    if not folder.is_dir():
        raise BackboneError(f"there is no folder {folder}; expected one as open_clip saves it, with {CONFIG}.")
    if not (folder / CONFIG).is_file():
        raise BackboneError(
            f"{folder} has no {CONFIG}; expected a folder as open_clip saves it, with {CONFIG} and "
            f"open_clip_model.safetensors."
        )
    return f"{FOLDER}{folder}", revision


def _find_published(architecture: str, *, tag: str, root: Path | None) -> Source:
    import open_clip
    from open_clip.pretrained import download_pretrained

    if open_clip.get_model_config(architecture) is None:
        raise BackboneError(unknown_model(architecture))
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if Path(tag).is_file():
        return Source(architecture, Path(tag))
    if tag not in tags:
        offered = f"one of {', '.join(tags)}, or" if tags else "it has no published weights;"
        wrong = f"/{tag}: open_clip has no weights '{tag}'" if tag else " names no weights"
        raise BackboneError(
            f"--model {PREFIX}{architecture}{wrong} of {architecture}; expected {offered} the path of a "
            f"checkpoint: {PREFIX}{architecture}/PATH."
        )
    settings = open_clip.get_pretrained_cfg(architecture, tag)
    try:
        with quiet():
            path = Path(download_pretrained(settings, cache_dir=None if root is None else str(root)))
    except Exception as error:
        # Of several libraries.
        where = (settings.get("hf_hub") or settings.get("url")).rstrip("/")
        raise BackboneError(
            f"cannot download the weights {tag} of {architecture} ({reason_of(error)}); download {where} on a "
            f"machine with network access and give its path: --model {PREFIX}{architecture}/PATH, or set HF_HOME to a "
            f"cache that has it (HF_HUB_OFFLINE={os.environ.get('HF_HUB_OFFLINE', '0')})."
        ) from None
    keys = ("mean", "std", "interpolation", "resize_mode")
    preprocess = {key: settings[key] for key in keys if settings.get(key) is not None}
    return Source(architecture, path, quick_gelu=bool(settings.get("quick_gelu")), preprocess=preprocess)


def unknown_model(architecture: str) -> str:
    """The error for an architecture that open_clip does not have, with names that are near it."""
    import open_clip

    near = difflib.get_close_matches(architecture, open_clip.list_models(), n=4, cutoff=0.4)
    hint = f"; near it: {', '.join(near)}" if near else ""
    return (
        f"open_clip has no model '{architecture}'{hint}. Expected {PREFIX}MODEL/TAG, {PREFIX}{FOLDER}FOLDER or "
        f"{PREFIX}{HUB}ORG/NAME."
    )
