"""A name or a path -> a frozen CLIP on a device, in a precision."""

import hashlib
import importlib.resources
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from clipret.backbones.library import import_clip, library_version, load_quietly
from clipret.backbones.openai import Backbone
from clipret.config import BUNDLED_MODELS
from clipret.devices import require_bfloat16
from clipret.errors import BackboneError, UsageError

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
                   checkpoint: a plain state dict or a TorchScript archive
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
        sha256, (model, preprocess) = _load_file(name, known=clip.available_models(), device=device)
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
        loaded = load_quietly(name, device=device, download_root=root)
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
    # clip has compared the file with the sha256 in its address.
    return url.split("/")[-2], loaded


def _load_file(name: str, *, known: list[str], device: str) -> tuple[str, tuple]:
    if name in BUNDLED_MODELS:
        path = Path(str(importlib.resources.files("clipret") / "assets" / f"{name}.pt"))
    else:
        path = Path(name)
    if not path.is_file():
        expected = ", ".join([*known, *BUNDLED_MODELS])
        raise BackboneError(f"unknown model '{name}'; expected one of {expected}, or the path of a CLIP checkpoint.")
    # Hashed by another thread meanwhile: neither needs the interpreter much.
    with ThreadPoolExecutor(max_workers=1) as thread:
        sha256 = thread.submit(_sha256, path)
        try:
            loaded = load_quietly(str(path), device=device)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0][:120]
            raise BackboneError(
                f"{path} is not a readable CLIP checkpoint ({type(error).__name__}: {reason}); "
                f"expected an OpenAI state dict or TorchScript archive, whole."
            ) from error
        return sha256.result(), loaded


def _sha256(path: Path) -> str:
    digest, buffer = hashlib.sha256(), bytearray(1 << 20)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(view):
            digest.update(view[:size])
    return digest.hexdigest()
