"""The only importer of `clip`, OpenAI's own package: loader of weights, tokenizer, and the reference for our towers."""

import importlib.metadata
import warnings
from pathlib import Path
from types import ModuleType

from clipret.errors import BackboneError


def import_clip() -> ModuleType:
    """OpenAI's package `clip`; raises BackboneError when it is missing or another project's."""
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


def load_quietly(name_or_path: str, *, device: str, download_root: Path | None = None):
    """clip.load of the plain modules: (model, preprocess)."""
    clip = import_clip()
    with warnings.catch_warnings():
        # TorchScript archives are how OpenAI publishes; that torch deprecates them is nothing a user can act on.
        warnings.simplefilter("ignore")
        root = str(download_root) if download_root else None
        return clip.load(name_or_path, device=device, jit=False, download_root=root)


def library_version() -> str:
    """The distribution that `import clip` comes from, with its version."""
    distributions = importlib.metadata.packages_distributions().get("clip", [])
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(set(distributions))) or "unknown"


class ClipFirst:
    """Pickled before an object that holds parts of clip, it imports clip quietly where that object is unpickled."""

    def __reduce__(self):
        return import_clip, ()
