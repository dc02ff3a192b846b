"""The only importer of `clip`, OpenAI's own package: loader of weights, tokenizer, and the reference for our towers."""

import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import Distribution, distributions
from pathlib import Path
from types import ModuleType

import torch

from clipret.errors import BackboneError


def import_clip() -> ModuleType:
    """OpenAI's package `clip`; raises BackboneError when it is missing or another package has its name."""
    install = "run: pip install clip-anytorch 'setuptools>=77.0.3,<82'"
    try:
        with warnings.catch_warnings():
            # clip imports pkg_resources, which warns that it is deprecated.
            warnings.simplefilter("ignore")
            import clip
    except ImportError as error:
        raise BackboneError(f"OpenAI's clip cannot be imported ({error}); {install}") from None
    if not all(hasattr(clip, name) for name in ("load", "tokenize", "available_models")):
        raise BackboneError(
            f"the installed package `clip` ({getattr(clip, '__file__', 'unknown')}) is another project, not OpenAI's; "
            f"run: pip uninstall clip, then {install}"
        )
    return clip


def build_clip(weights: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Callable]:
    """clip's model on the CPU, with weights rounded to float16 where clip rounds them, and its preprocessing."""
    clip = import_clip()
    model = clip.model.build_model(dict(weights))
    return model, clip.clip._transform(model.visual.input_resolution)


def fetch_published(name: str, *, root: Path | None) -> tuple[Path, str]:
    """The file of one of OpenAI's models, downloaded when missing, and its sha256, which clip has verified."""
    clip = import_clip()
    url = clip.clip._MODELS[name]
    with warnings.catch_warnings():
        # clip warns when it downloads a damaged file again; the user need not act.
        warnings.simplefilter("ignore")
        path = clip.clip._download(url, str(root or Path("~/.cache/clip").expanduser()))
    return Path(path), url.split("/")[-2]


@cache
def library_version() -> str:
    """The distribution that provides `clip`, with its version."""
    # importlib.metadata.packages_distributions lists every file of every package, which takes more than a second.
    owners = {f"{package.metadata['Name']} {package.version}" for package in distributions() if _provides_clip(package)}
    return ", ".join(sorted(owners)) or "unknown"


def _provides_clip(distribution: Distribution) -> bool:
    packages = distribution.read_text("top_level.txt")
    if packages is not None:
        return "clip" in packages.split()
    return "\nclip/__init__.py," in "\n" + (distribution.read_text("RECORD") or "")


class ClipFirst:
    """Pickled before an object with parts of clip, so that unpickling imports clip without its warnings first."""

    def __reduce__(self):
        return import_clip, ()
