"""Models of the Hugging Face hub as folders on this machine, and what identifies their files."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from clipret.backbones.loading import reason_of
from clipret.errors import BackboneError

_BLOCK = 1 << 20
# Of weights: safetensors if a repository has them, or else pickles, which are read with weights_only.
_SAFE, _PICKLED = ("*.safetensors",), ("*.bin", "*.pt", "*.pth")
_DESCRIPTIONS = ("*.json", "*.txt", "*.model", "*.tiktoken")


def find_folder(
    name: str, *, option: str, cache: Path | None, repository: str | None = None, **patterns: tuple[str, ...]
) -> tuple[Path, str]:
    """The folder of a model, and its revision on the hub; "" for a folder of the user's own.

    name        a folder, or a name of the hub
    option      what --model takes for a folder
    cache       the hub's cache; None: where HF_HOME says
    repository  that a name which is no folder means on the hub; by default itself
    patterns    safe, pickled and also of repository_folder

    Raises BackboneError where there is neither.
    """
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path, ""
    if path.is_absolute() or name.startswith((".", "~")) or (name and path.exists()):
        raise BackboneError(f"there is no folder {path}; expected the folder of a model, or its name on the hub.")
    return repository_folder(repository or name, option=option, cache=cache, **patterns)


def repository_folder(
    repository: str,
    *,
    option: str,
    cache: Path | None,
    safe: tuple[str, ...] = _SAFE,
    pickled: tuple[str, ...] = _PICKLED,
    also: tuple[str, ...] = (),
) -> tuple[Path, str]:
    """The folder that holds a repository's files, fetched where they are not in the hub's cache, and its revision.

    repository  ORG/NAME
    option      what --model takes instead, for a folder that was copied by hand: "hf:DIR"
    cache       the hub's cache; None: where HF_HOME says
    safe        names of the weights, with `*`; other files of weights are left where they are
    pickled     names of those that are fetched only where there are none of these
    also        patterns of further files, such as weights in folders of the repository

    Raises BackboneError when there is no such repository, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    nested = [] if also else ["*/*.bin"]
    settings = {"cache_dir": cache, "ignore_patterns": ["onnx/*", "openvino/*", *nested]}

    def fetch(patterns: Iterable[str], *, local: bool) -> Path:
        return Path(snapshot_download(repository, allow_patterns=list(patterns), local_files_only=local, **settings))

    try:
        folder = _cached(fetch, weights=(*safe, *pickled))
        if folder is None:
            folder = fetch((*_DESCRIPTIONS, *safe, *also), local=False)
            if not _has(folder, safe):
                folder = fetch((*_DESCRIPTIONS, *pickled, *also), local=False)
    except HFValidationError:
        raise BackboneError(
            f"'{repository}' is neither a folder, seen from {Path.cwd()}, nor a repository of the hub; expected "
            f"FOLDER or ORG/NAME."
        ) from None
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        what = (
            "there is no such repository, or it is not public (HF_TOKEN)" if status in (401, 404) else reason_of(error)
        )
        raise BackboneError(f"cannot fetch {repository} from the Hugging Face hub: {what}.") from None
    except Exception as error:
        # Of several libraries, none of which says what to do.
        raise _unreachable(repository, error, option=option, cache=cache) from None
    return folder, folder.name


def _unreachable(repository: str, error: Exception, *, option: str, cache: Path | None) -> BackboneError:
    from huggingface_hub.constants import HF_HUB_CACHE

    return BackboneError(
        f"cannot reach the Hugging Face hub for {repository} ({reason_of(error)}); on a machine that can, run: "
        f"hf download {repository} --local-dir FOLDER; copy FOLDER here and give it with --model {option}. Files "
        f"that are already here are looked for in {cache or HF_HUB_CACHE} (HF_HOME); HF_HUB_OFFLINE="
        f"{os.environ.get('HF_HUB_OFFLINE', '0')}."
    )


def _cached(fetch, *, weights: tuple[str, ...]) -> Path | None:
    """The folder in the cache, where it has weights; None otherwise."""
    try:
        folder = fetch((*_DESCRIPTIONS, *weights), local=True)
    except Exception:
        return None
    return folder if _has(folder, weights) else None


def _has(folder: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a folder has a file of one of these names."""
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))


def weight_files(folder: Path, *, preferred: tuple[str, ...] = ()) -> list[Path]:
    """The files of a model's weights: the first of the preferred names that is there, or all safetensors, or all
    pickles; none if there are none.
    """
    for name in preferred:
        if (folder / name).is_file():
            return [folder / name]
    for patterns in (_SAFE, _PICKLED):
        files = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
        if files:
            return files
    return []


def digest_of(files: Iterable[Path]) -> str:
    """sha256 of a file's bytes; of several, of their digests in order."""
    digests = [_digest(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
