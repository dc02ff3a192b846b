"""Choice of device and precision, and torch's threads."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from clipret.errors import UsageError
from clipret.machine import torch_private

_PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def choose_device(device: str) -> str:
    """`auto` -> cuda if there is a GPU, else cpu. Raises UsageError for cuda without a GPU."""
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UsageError("--device is cuda, but torch sees no CUDA device here; use --device cpu.")
    return ("cuda" if available else "cpu") if device == "auto" else device


def choose_precision(precision: str, *, device: str) -> str:
    """fp32, fp16, bf16 or auto -> name of the torch dtype of an encoder; auto: fp16 on CUDA, else fp32.

    Raises UsageError when the device (cpu, cuda, cuda:1) does not support it.
    """
    kind = torch.device(device).type
    default = "fp32" if kind == "cpu" else "fp16"
    if precision == "fp16" and kind == "cpu":
        raise UsageError("--precision is fp16, which is for CUDA only; on the CPU use --precision fp32 or bf16.")
    if precision == "bf16":
        require_bfloat16(kind, other=default)
    return _PRECISIONS[default if precision == "auto" else precision]


def require_bfloat16(device: str, *, other: str) -> None:
    """Raise UsageError, suggesting precision `other`, when the device (cpu, cuda) has no bfloat16 instructions.

    Without them bfloat16 is slower than float32.
    """
    on_cpu = device == "cpu"
    if torch_private.cpu_has_bfloat16() if on_cpu else torch.cuda.is_bf16_supported():
        return
    raise UsageError(
        f"--precision is bf16, but this {'processor' if on_cpu else 'GPU'} has no bfloat16 instructions; use "
        f"--precision {other}."
    )


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Inside, torch computes on `count` threads; None: torch's own number.

    The number may change the last bits, and a forked process hangs if it waits for threads of its parent.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread_each(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool in whose threads torch uses one thread each; on an error, tasks that have not started are cancelled."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        # Some libraries of torch have one setting for all threads.
        torch.set_num_threads(before)
