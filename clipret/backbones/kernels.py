"""Operations of the encoders: clip's own values, computed as fast as this machine can.

Shape suffixes: B batch, L positions, D width, H heads.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from clipret.machine import torch_private

# Rows of a matrix product on the CPU: with more rows, 3,072 wide, it no longer fits the caches and is a fifth slower. A
# constant, not measured at run time, because another number of rows may change the bits.
CPU_ROWS = 1600
_QUICK_GELU = 1.702


@dataclass(frozen=True)
class Arithmetic:
    """How a tower computes.

    dtype    of weights and matrix products: float32, float16 or bfloat16
    kernels  what multiplies: "oneDNN" or "torch"
    """

    dtype: torch.dtype
    kernels: str

    @property
    def stream(self) -> torch.dtype:
        """The type of the residual stream: bfloat16's 8 bits are too few to add up in."""
        return torch.float32 if self.dtype == torch.bfloat16 else self.dtype

    @property
    def folds(self) -> bool:
        """Whether a factor may be multiplied into weights: float16 weights stay the very ones that clip loads."""
        return self.dtype != torch.float16


def choose_kernels(device: torch.device, *, dtype: torch.dtype, compiled: bool) -> str:
    """ "oneDNN" on the CPU where torch_private may use it, because torch's own products use another library there; else
    "torch".
    """
    usable = (
        device.type == "cpu"
        and dtype in (torch.float32, torch.bfloat16)
        and not compiled
        and not any(torch_private.why_public(operation, dtype=dtype) for operation in ("linear", "convolution"))
    )
    return "oneDNN" if usable else "torch"


@contextlib.contextmanager
def whole_float32(device: torch.device) -> Iterator[None]:
    """Inside, CUDA convolutions use all 23 bits of float32; by default cuDNN uses 10 of them."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


class Linear:
    """x -> x W' + b over the last dimension, (..., D) -> (..., E), optionally followed by silu."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, arithmetic: Arithmetic, silu: bool = False):
        self._weight = weight.detach().to(arithmetic.dtype)
        self._bias = None if bias is None else bias.detach().to(arithmetic.dtype)
        self._silu = silu
        self._packed = arithmetic.kernels == "oneDNN"
        if self._packed:
            self._weight = torch_private.pack_linear(self._weight, rows=CPU_ROWS)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._packed:
            return torch_private.linear(x, self._weight, self._bias, silu=self._silu)
        x = functional.linear(x, self._weight, self._bias)
        return functional.silu(x, inplace=True) if self._silu else x


class QuickMLP:
    """CLIP's MLP: linear, x * sigmoid(1.702 x), linear.

    This equals silu(1.702 x) / 1.702, so the factors are folded into the weights, which saves an operation.
    """

    def __init__(self, mlp: torch.nn.Module, *, arithmetic: Arithmetic):
        self._folded = arithmetic.folds
        up, down = mlp.c_fc, mlp.c_proj
        factor = _QUICK_GELU if self._folded else 1
        self._up = Linear(
            up.weight.detach() * factor, up.bias.detach() * factor, arithmetic=arithmetic, silu=self._folded
        )
        self._down = Linear(down.weight.detach() / factor, down.bias, arithmetic=arithmetic)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = self._up(x)
        if not self._folded:
            x = torch.sigmoid(_QUICK_GELU * x).mul_(x)
        return self._down(x)


class Norm:
    """LayerNorm over the last dimension with statistics in float32."""

    def __init__(self, norm: torch.nn.LayerNorm, *, arithmetic: Arithmetic, output: torch.dtype | None = None):
        """output: type of the result; None: arithmetic.dtype."""
        self._shape, self._eps = norm.normalized_shape, norm.eps
        self._output = output or arithmetic.dtype
        # torch's kernels for float16 also sum in float32, so float16 is used if it can represent the weights exactly.
        parts, stream = (norm.weight.detach().float(), norm.bias.detach().float()), arithmetic.stream
        lossless = all(torch.equal(part.to(stream).float(), part) for part in parts)
        self._type = stream if lossless else torch.float32
        self._weight, self._bias = (part.to(self._type) for part in parts)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.layer_norm(x.to(self._type), self._shape, self._weight, self._bias, self._eps)
        return x.to(self._output)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, heads: int, **mask) -> torch.Tensor:
    """Scaled dot-product attention of query (B, Lq, D) over key and value (B, L, D) -> (B, Lq, D).

    mask  is_causal or attn_mask of torch's scaled_dot_product_attention
    """
    split = [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value)]
    return functional.scaled_dot_product_attention(*split, **mask).transpose(1, 2).flatten(2)


class OneQuery:
    """Multi-head attention for the query at one position of each row, before the output's projection: -> (B, D).

    In float32 no keys and values are computed: q (W_k x) = (q W_k) x, and a sum of W_v x is W_v times the sum of x, so
    two products with a vector serve all positions. The bias of the keys shifts all scores of a query equally, which
    softmax ignores. In 16 bits, where this would round differently from clip, attention is computed as written.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, *, heads: int, arithmetic: Arithmetic):
        """weight (3D, D) and bias (3D,): query, key and value concatenated."""
        width, self._heads = weight.shape[1], heads
        self._query = Linear(weight[:width], bias[:width], arithmetic=arithmetic)
        self._shared = arithmetic.dtype == torch.float32
        if self._shared:
            key, value = weight.detach()[width:].unflatten(0, (2, heads, -1))
            self._key, self._value, self._bias = key, value.transpose(1, 2), bias.detach()[2 * width :]
        else:
            self._key_value = Linear(weight[width:], bias[width:], arithmetic=arithmetic)

    def __call__(self, x: torch.Tensor, *, at: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """x (B, L, D); at (B,) int64: positions of the queries; seen (B, L) bool: what they attend to, None: all."""
        query = self._query(x[torch.arange(len(x), device=x.device), at])
        if not self._shared:
            mask = None if seen is None else seen[:, None, None]
            key, value = self._key_value(x).chunk(2, dim=-1)
            return attend(query[:, None], key, value, heads=self._heads, attn_mask=mask)[:, 0]
        query = query.unflatten(1, (self._heads, -1))
        # (H, B, d) x (H, d, D): one product a head, over all rows.
        query = (query * query.shape[-1] ** -0.5).transpose(0, 1).bmm(self._key).transpose(0, 1)
        scores = query @ x.transpose(1, 2)
        if seen is not None:
            scores = scores.masked_fill(~seen[:, None], -torch.inf)
        mixed = (scores.softmax(dim=-1) @ x).transpose(0, 1).bmm(self._value).transpose(0, 1)
        return mixed.flatten(1) + self._bias
