"""Matrix products for stacks of runs, with the fastest operation of the device.

Shape suffixes: S runs of a stack; (n, k) x (k, m) one product.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from clipret.machine import torch_private

# Below this many operations per product, one call for the whole stack is faster than one call per run.
_LOOP_FROM_OPERATIONS = 4_000_000


class Products:
    """Products (S, n, k) x (S, k, m) -> (S, n, m) in float32, one per run.

    They are fastest with a contiguous left factor; the layout of the right factor does not matter. One of the factors
    may have S = 1 and is then broadcast.
    """

    def __init__(self, device: str, *, precision: str = "fp32"):
        """precision: fp32; tf32: CUDA only, 10 bits of mantissa; bf16: factors rounded to bfloat16, sums in float32."""
        self._bf16 = precision == "bf16"
        # For float32 torch uses MKL, which on AMD processors is half as fast as oneDNN.
        dtype = torch.bfloat16 if self._bf16 else torch.float32
        self._onednn = device == "cpu" and torch_private.why_public("linear", dtype=dtype) is None
        self._tf32 = precision == "tf32"

    def __call__(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The products as one tensor (S, n, m)."""
        products = self._multiply(left, right)
        if isinstance(products, list):
            products = products[0][None] if len(products) == 1 else torch.stack(products)
        return products.float() if self._bf16 else products

    def separately(self, left: torch.Tensor, right: torch.Tensor) -> Sequence[torch.Tensor]:
        """The products as S tensors (n, m), not necessarily in one block of memory."""
        products = self._multiply(left, right)
        return [product.float() for product in products] if self._bf16 else list(products)

    def _multiply(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        runs = max(len(left), len(right))
        if self._bf16:
            left, right = left.bfloat16(), right.bfloat16()
        quick = self._onednn and left.dtype in (torch.float32, torch.bfloat16)
        if quick and runs == 1:
            return [torch_private.linear(left[0], right[0].t())]
        left, right = left.expand(runs, -1, -1), right.expand(runs, -1, -1)
        if quick and 2 * left.shape[1] * left.shape[2] * right.shape[2] >= _LOOP_FROM_OPERATIONS:
            return [torch_private.linear(a, b.t()) for a, b in zip(left.unbind(), right.unbind(), strict=True)]
        if left.is_cuda:
            with _tf32(self._tf32):
                return torch.bmm(left, right)
        return torch.bmm(left, right)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid tf32 in CUDA's float32 products; restores the setting afterwards."""
    flags = torch.backends.cuda.matmul
    before = flags.allow_tf32
    if before == allowed:
        yield
        return
    flags.allow_tf32 = allowed
    try:
        yield
    finally:
        flags.allow_tf32 = before


def keep_freed_memory(most: int = 31 << 20) -> None:
    """Make glibc keep freed memory for the next allocation instead of returning it to the system.

    Training allocates the same few megabytes in every step, and page faults cost more than the computation. Freeing a
    block of `most` bytes, less than 32 MiB, raises glibc's mmap threshold to that size; it then keeps up to twice as
    much. Without glibc this does nothing.
    """
    torch.empty(most, dtype=torch.uint8)
