"""Matrix products of stacks of runs, by the fastest operation of the device.

Shape suffixes: S runs of a stack; (n, k) x (k, m) one product.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from clipret.machine import torch_private

# Below this many operations a product, one call for the whole stack is faster than one call a run.
_LOOP_FROM_OPERATIONS = 4_000_000


class Products:
    """Products (S, n, k) x (S, k, m) -> (S, n, m) in float32, one a run.

    The left factor is read fastest when it is contiguous; the layout of the right one does not matter. One of them may
    have a single run, which is then used for all.
    """

    def __init__(self, device: str, *, precision: str = "fp32"):
        """precision: fp32; tf32: CUDA's 10 bits of mantissa; bf16: factors rounded to bfloat16, sums in float32."""
        self._bf16 = precision == "bf16"
        # For float32 torch multiplies with MKL, which on processors of AMD reaches half of what oneDNN does.
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
    """Inside, CUDA multiplies float32 with 10 bits of mantissa or with all; afterwards as before."""
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

    Training allocates the same few megabytes in every step, and fresh pages cost more than the computation in them.
    Freeing one block of this many bytes, less than 32 MiB, raises glibc's threshold to that size; it then keeps up to
    twice as much. Without glibc this does nothing.
    """
    torch.empty(most, dtype=torch.uint8)
