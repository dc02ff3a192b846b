"""The files that OpenAI's CLIP is loaded from: published, bundled, or a checkpoint of one's own."""

import hashlib
import importlib.resources
import stat
import threading
import urllib.error
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from clipret.backbones.checkpoints import load_checkpoint
from clipret.backbones.clip_package import fetch_published, import_clip
from clipret.config import BUNDLED_MODELS
from clipret.errors import BackboneError

# A file of another library's model folder -> what its name begins with for --model.
_FOLDERS = {"open_clip_config.json": "open_clip:local-dir:", "config.json": "hf:"}


def load_weights(name: str, *, device: str, download_root: Path | None) -> tuple[str, tuple[torch.nn.Module, Callable]]:
    """The sha256 of the weights of a model, and clip's model and preprocessing as load_checkpoint gives them.

    name  one of OpenAI's names (downloaded by clip when missing), a bundled model, or a path

    Raises BackboneError when the name is unknown, the weights cannot be fetched or are not a CLIP checkpoint.
    """
    clip = import_clip()
    if name in clip.available_models():
        return _load_published(name, url=clip.clip._MODELS[name], device=device, root=download_root)
    return _load_file(checkpoint_path(name), device=device)


def checkpoint_path(name: str) -> Path:
    """The file of a bundled model, or of a checkpoint. Raises BackboneError unless it is a file that is not empty."""
    if name in BUNDLED_MODELS:
        path = Path(str(importlib.resources.files("clipret.backbones") / "bundled" / f"{name}.pt"))
    else:
        path = Path(name)
    _require_file(path, expected=", ".join([*import_clip().available_models(), *BUNDLED_MODELS]))
    return path


def _load_published(name: str, *, url: str, device: str, root: Path | None) -> tuple[str, tuple]:
    try:
        path, sha256 = fetch_published(name, root=root)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise BackboneError(
            f"cannot download the weights of {name}: {getattr(error, 'reason', error)}. "
            f"Download {url} on a machine with network access and give its path: --model PATH"
        ) from None
    except (OSError, RuntimeError) as error:
        raise BackboneError(
            f"cannot load the weights of {name}: {str(error).splitlines()[0]}; "
            f"delete {Path(url).name} in the download folder, or give another one with --download-root."
        ) from error
    return sha256, load_checkpoint(path, device=device)


def _load_file(path: Path, *, device: str) -> tuple[str, tuple]:
    # Hash in another thread meanwhile: neither task holds the interpreter lock for long.
    with ThreadPoolExecutor(max_workers=1) as thread:
        stop = threading.Event()
        sha256 = thread.submit(_sha256, path, stop=stop)
        try:
            loaded = load_checkpoint(path, device=device)
        except BaseException:
            stop.set()
            raise
        return sha256.result(), loaded


def _require_file(path: Path, *, expected: str) -> None:
    """Checked before anything is read: reading a pipe may block, and a device may have no end."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise BackboneError(f"cannot read {path}: {error.strerror}.") from None
        raise BackboneError(
            f"unknown model '{path}'; expected one of {expected}, or the path of a CLIP checkpoint. Names of other "
            f"encoders begin with open_clip:, hf: or pair:; clipret models lists them."
        ) from None
    if stat.S_ISDIR(status.st_mode):
        names = [f"{prefix}{path}" for file, prefix in _FOLDERS.items() if (path / file).is_file()]
        if names:
            raise BackboneError(f"--model {path} is a folder with a model of another library: --model {names[0]}")
        raise BackboneError(f"--model {path} is a folder; give the checkpoint in it, or one of {expected}.")
    if not stat.S_ISREG(status.st_mode):
        raise BackboneError(f"--model {path} is a pipe or a device; give a checkpoint's file, or one of {expected}.")
    # Files of /proc also have size 0, and reading them may block forever.
    if status.st_size == 0:
        raise BackboneError(f"{path} is empty; copy or download it again.")


def _sha256(path: Path, *, stop: threading.Event) -> str:
    digest, buffer = hashlib.sha256(), bytearray(1 << 20)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while not stop.is_set() and (size := file.readinto(view)):
            digest.update(view[:size])
    return digest.hexdigest()
