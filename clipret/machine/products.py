"""Matrix products of stacks, each the quickest way that the device has.

Shape suffixes: S runs of a stack; (n, k) x (k, m) one product.
"""

import platform
from collections.abc import Sequence

import torch

# Below this many operations a product, one call for all of a stack beats a call for each.
_LOOP_FROM_OPERATIONS = 4_000_000


def onednn_has(*operations: str) -> bool:
    """Whether this is an x86 CPU and torch has these operations of oneDNN's, which torch does not take by itself.

    For float32 torch multiplies with MKL, which on processors of AMD reaches half of what oneDNN does.
    """
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in operations)
    )


class Products:
    """Products (S, n, k) x (S, k, m) -> (S, n, m) in float32, one a run.

    The left factor is read fastest when it is contiguous; of the right one any layout does. One of them may have a
    single run, which then is that of all.
    """

    def __init__(self, device: str, *, precision: str = "fp32"):
        """precision: fp32; tf32: CUDA's 10 bits of mantissa; bf16: factors rounded to bfloat16, sums in float32."""
        self._bf16 = precision == "bf16"
        self._onednn = device == "cpu" and onednn_has("_linear_pointwise")
        if device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"

    def __call__(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The products as one tensor (S, n, m)."""
        found = self._multiply(left, right)
        if isinstance(found, list):
            found = found[0][None] if len(found) == 1 else torch.stack(found)
        return found.float() if self._bf16 else found

    def each(self, left: torch.Tensor, right: torch.Tensor) -> Sequence[torch.Tensor]:
        """The products as S tensors (n, m), which may be apart."""
        found = self._multiply(left, right)
        return [product.float() for product in found] if self._bf16 else list(found)

    def _multiply(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        runs = max(len(left), len(right))
        if self._bf16:
            left, right = left.bfloat16(), right.bfloat16()
        quick = self._onednn and left.dtype in (torch.float32, torch.bfloat16)
        if quick and runs == 1:
            return [_onednn(left[0], right[0])]
        left, right = left.expand(runs, -1, -1), right.expand(runs, -1, -1)
        if quick and 2 * left.shape[1] * left.shape[2] * right.shape[2] >= _LOOP_FROM_OPERATIONS:
            return [_onednn(a, b) for a, b in zip(left.unbind(), right.unbind(), strict=True)]
        return torch.bmm(left, right)


def _onednn(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")


def keep_freed_memory(most: int = 31 << 20) -> None:
    """Have glibc keep what is freed for what is asked for next, instead of returning it to the system each time.

    Work in steps asks for the same few megabytes again and again, and fresh pages cost more than what is computed in
    them. Freeing one block of this many bytes, less than 32 MiB, raises glibc's threshold to that; it then keeps up to
    twice as much. Elsewhere this does nothing.
    """
    torch.empty(most, dtype=torch.uint8)
