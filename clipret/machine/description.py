"""The properties of this machine that decide the speed and the last bits of results."""

import os
import platform
from pathlib import Path

import torch

from clipret.machine.memory import available_memory
from clipret.machine.torch_private import cpu_has_bfloat16, why_public

_CPUINFO = Path("/proc/cpuinfo")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> dict:
    """This machine, as a JSON-ready dict.

    Returns system, python, processor, cores (of this process), memory (bytes available; None if unknown), torch,
    threads (of torch), bfloat16 (cpu and, with a GPU, cuda: whether the hardware supports it), gpus (name, memory in
    bytes), and private_operations: operation, device, dtype, and public_because (why torch's public operation is used;
    None if the private one is).
    """
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    operations = [(name, "cpu", dtype) for name in ("linear", "convolution") for dtype in ("float32", "bfloat16")]
    operations += [("adamw", device, "float32") for device in ("cpu", *(["cuda"] if gpus else []))]
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": available_cores(),
        "memory": available_memory(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "bfloat16": {"cpu": cpu_has_bfloat16()} | ({"cuda": torch.cuda.is_bf16_supported()} if gpus else {}),
        "gpus": [{"name": gpu.name, "memory": gpu.total_memory} for gpu in gpus],
        "private_operations": [
            {
                "operation": name,
                "device": device,
                "dtype": dtype,
                "public_because": why_public(name, dtype=getattr(torch, dtype), device=device),
            }
            for name, device, dtype in operations
        ],
    }


def _processor() -> str:
    """The name of the processor, or else its architecture."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor()])[0] or platform.machine()
