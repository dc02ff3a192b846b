"""Which device to compute on."""

import torch

from clipret.errors import UsageError


def choose_device(device: str) -> str:
    """`auto` -> cuda where there is one, else cpu. Raises UsageError when cuda is asked for and is not there."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UsageError("--device is cuda, but torch sees no CUDA device here; use --device cpu.")
    return ("cuda" if available else "cpu") if device == "auto" else device
