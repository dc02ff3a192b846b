"""A name or a path -> a frozen CLIP on a device, in a precision."""

import hashlib
import importlib.resources
import stat
import threading
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from clipret.backbones.checkpoints import load_checkpoint
from clipret.backbones.clip_package import fetch_published, import_clip, library_version
from clipret.backbones.openai import Backbone
from clipret.config import BUNDLED_MODELS
from clipret.errors import BackboneError, UsageError
from clipret.machine.devices import require_bfloat16

_PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def load_backbone(
    name_or_path: str,
    *,
    device: str = "cpu",
    precision: str = "auto",
    compiled: bool = False,
    download_root: Path | None = None,
) -> Backbone:
    """Load a frozen CLIP.

    name_or_path   one of OpenAI's names (downloaded by clip when missing), a bundled model, or the path of a
                   checkpoint in a form that load_checkpoint takes
    device         cpu or cuda
    precision      fp32, fp16 (CUDA only), bf16, or auto: fp32 on the CPU and, as clip loads it, fp16 on CUDA
    compiled       whether torch.compile makes kernels of the towers
    download_root  where OpenAI's weights are kept; ~/.cache/clip by default

    Raises UsageError when the device cannot compute in the precision, and BackboneError when clip is missing, the name
    is unknown, the weights cannot be fetched, or the file is not a CLIP checkpoint.
    """
    precision = _chosen_precision(precision, device=torch.device(device))
    clip = import_clip()
    name = str(name_or_path)
    if name in clip.available_models():
        sha256, (model, preprocess) = _load_published(
            name, url=clip.clip._MODELS[name], device=device, root=download_root
        )
    else:
        sha256, (model, preprocess) = _load_file(name, published=clip.available_models(), device=device)
    if precision != "float16":
        # clip's float16 on CUDA stays the reference of float16 alone.
        model.float()
    return Backbone(name, sha256, library_version(), model.eval(), preprocess, precision, compiled)


def _chosen_precision(precision: str, *, device: torch.device) -> str:
    on_cpu = device.type == "cpu"
    if precision == "auto":
        precision = "fp32" if on_cpu else "fp16"
    if precision == "fp16" and on_cpu:
        raise UsageError("--precision is fp16, which is for CUDA only; on the CPU use --precision fp32 or bf16.")
    if precision == "bf16":
        require_bfloat16(device.type, other="fp32" if on_cpu else "fp16")
    return _PRECISIONS[precision]


def _load_published(name: str, *, url: str, device: str, root: Path | None) -> tuple[str, tuple]:
    try:
        path, sha256 = fetch_published(name, root=root)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise BackboneError(
            f"cannot download the weights of {name}: {getattr(error, 'reason', error)}. "
            f"Fetch {url} on a machine with a network and give its path: --model PATH"
        ) from None
    except (OSError, RuntimeError) as error:
        raise BackboneError(
            f"cannot load the weights of {name}: {str(error).splitlines()[0]}; "
            f"delete {Path(url).name} in the download folder, or give another one with --download-root."
        ) from error
    return sha256, load_checkpoint(path, device=device)


def _load_file(name: str, *, published: list[str], device: str) -> tuple[str, tuple]:
    if name in BUNDLED_MODELS:
        path = Path(str(importlib.resources.files("clipret.backbones") / "bundled" / f"{name}.pt"))
    else:
        path = Path(name)
    _require_file(path, expected=", ".join([*published, *BUNDLED_MODELS]))
    # Hashed by another thread meanwhile: neither needs the interpreter much.
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
    """Before anything is read: a pipe would wait for its writer, and a device need not end."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError):
            raise BackboneError(f"cannot read {path}: {error.strerror}.") from None
        raise BackboneError(
            f"unknown model '{path}'; expected one of {expected}, or the path of a CLIP checkpoint."
        ) from None
    if stat.S_ISDIR(status.st_mode):
        raise BackboneError(f"--model {path} is a folder; give the checkpoint in it, or one of {expected}.")
    if not stat.S_ISREG(status.st_mode):
        raise BackboneError(f"--model {path} is a pipe or a device; give a checkpoint's file, or one of {expected}.")
    # What the kernel shows as a file has no size either, and reading it may wait for ever.
    if status.st_size == 0:
        raise BackboneError(f"{path} is empty; copy or download it again.")


def _sha256(path: Path, *, stop: threading.Event) -> str:
    digest, buffer = hashlib.sha256(), bytearray(1 << 20)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while not stop.is_set() and (size := file.readinto(view)):
            digest.update(view[:size])
    return digest.hexdigest()
