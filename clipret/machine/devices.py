"""Which device to compute on."""

import torch

from clipret.errors import UsageError


def choose_device(device: str) -> str:
    """`auto` -> cuda where there is one, else cpu. Raises UsageError when cuda is asked for and is not there."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UsageError("--device is cuda, but torch sees no CUDA device here; use --device cpu.")
    return ("cuda" if available else "cpu") if device == "auto" else device


def require_bfloat16(device: str, *, other: str) -> None:
    """Raises UsageError, which names another precision, when the device (cpu, cuda) has no bfloat16 instructions.

    Without them it is slower than float32.
    """
    on_cpu = device == "cpu"
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if any(getattr(torch.cpu, name, lambda: False)() for name in checks) if on_cpu else torch.cuda.is_bf16_supported():
        return
    raise UsageError(
        f"--precision is bf16, but this {'processor' if on_cpu else 'GPU'} has no bfloat16 instructions; use "
        f"--precision {other}."
    )
