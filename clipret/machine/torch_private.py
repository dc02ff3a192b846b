"""The only module that uses torch's private operations: those of oneDNN, and fused AdamW.

They are faster than torch's public operations, but a release of torch may change or remove them without notice. So each
is tested once, on small inputs, against the public operation. If it is missing, fails or differs, the public one is
used. CLIPRET_PUBLIC_TORCH_ONLY=1 in the environment disables all private operations.
"""

import functools
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

PUBLIC_ONLY = "CLIPRET_PUBLIC_TORCH_ONLY"
# Tolerated difference from the public operation in the test, relative to the largest value.
_TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


class Coefficients(NamedTuple):
    """The hyperparameters of AdamW besides the learning rate; decay is the weight decay."""

    beta1: float
    beta2: float
    decay: float
    eps: float


_COEFFICIENTS = Coefficients(beta1=0.9, beta2=0.999, decay=0.1, eps=1e-8)


def pack_linear(weight: torch.Tensor, *, rows: int) -> torch.Tensor:
    """A weight (E, D) in oneDNN's packed layout, for inputs of that many rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, silu: bool = False):
    """x W' + b by oneDNN, (..., D) -> (..., E), then silu if asked for; the weight may be packed."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "swish" if silu else "none", [], "")


def pack_convolution(
    weight: torch.Tensor, *, padding: Sequence[int], stride: Sequence[int], shape: Sequence[int]
) -> torch.Tensor:
    """A weight (C', C, h, w) in oneDNN's packed layout, for inputs of that shape (B, C, H, W)."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, [1, 1], 1, shape)


def convolve(x: torch.Tensor, *arguments, add: torch.Tensor | None = None, relu: bool = False) -> torch.Tensor:
    """A convolution by oneDNN, then optionally an addition into `add`, which is overwritten, and a ReLU.

    arguments  a packed weight, bias, padding and stride
    """
    activation = "relu" if relu else "none"
    if add is None:
        return torch.ops.mkldnn._convolution_pointwise(x, *arguments, [1, 1], 1, activation, [], "")
    operation = torch.ops.mkldnn._convolution_pointwise_.binary
    return operation(add, x, *arguments, [1, 1], 1, "add", 1.0, activation, [], None)


def fused_adamw(
    values: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    *,
    moments: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]],
    counts: Sequence[torch.Tensor],
    lr: float | torch.Tensor,
    coefficients: Coefficients,
) -> None:
    """As adamw, in one fused call of torch."""
    beta1, beta2, decay, eps = coefficients
    settings = {"lr": lr, "beta1": beta1, "beta2": beta2, "weight_decay": decay, "eps": eps}
    torch._fused_adamw_(values, gradients, *moments, [], counts, **settings, amsgrad=False, maximize=False)


def adamw(
    values: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    *,
    moments: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]],
    counts: Sequence[torch.Tensor],
    lr: float | torch.Tensor,
    coefficients: Coefficients,
) -> None:
    """One step of AdamW (Loshchilov and Hutter 2019, algorithm 2), in place, with public operations.

    moments  first and second moments, with the shapes of the values
    counts   number of steps including this one, a scalar tensor for each value
    """
    beta1, beta2, decay, eps = coefficients
    for value, gradient, first, second, count in zip(values, gradients, *moments, counts, strict=True):
        value.mul_(1 - lr * decay)
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # In float64: float32 would round 1 - 0.999 to four digits.
        steps = count.double()
        scale = (second / (1 - beta2**steps)).sqrt_().add_(eps)
        value.sub_(first / scale * (lr / (1 - beta1**steps)))


def choose_adamw(device: str) -> Callable[..., None]:
    """fused_adamw if it gives the same results as adamw on that device (cpu, cuda), else adamw."""
    return adamw if why_public("adamw", device=device) else fused_adamw


def why_public(operation: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> str | None:
    """Why the private form of an operation is not used; None if it is used.

    operation  linear, convolution (both on the CPU, float32 or bfloat16) or adamw
    """
    if os.environ.get(PUBLIC_ONLY, "0") not in ("", "0"):
        return f"{PUBLIC_ONLY} is set"
    if operation != "adamw":
        if platform.machine().lower() not in ("x86_64", "amd64"):
            return "the processor is not an x86-64"
        if not torch.backends.mkldnn.is_available():
            return "this torch has no oneDNN"
    return _tried(operation, dtype, device)


def cpu_has_bfloat16() -> bool:
    """Whether the processor supports bfloat16 products, as far as torch can tell without a public function for it."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


@functools.cache
def _tried(operation: str, dtype: torch.dtype, device: str) -> str | None:
    try:
        with torch.no_grad():
            for ours, expected in _TRIALS[operation](dtype, device):
                error = ((ours.double() - expected.double()).abs().max() / expected.double().abs().max()).item()
                # Negated, so that NaN is an error too.
                if not error <= _TOLERANCES[dtype]:
                    return f"its result differs from torch's public operation by {error:.1e} (relative)"
    except (AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
        return f"torch {torch.__version__} refuses it: {(str(error).splitlines() or [type(error).__name__])[0][:200]}"
    return None


def _pattern(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    """Irregular values from -1 to 1. Random ones would advance the user's random generator."""
    count = torch.Size(shape).numel()
    return torch.arange(count, dtype=torch.float64).mul(2.399963).sin().view(shape).to(device, dtype)


# Pairs of a result and its expected value.
_Trial = Iterator[tuple[torch.Tensor, torch.Tensor]]


def _try_linear(dtype: torch.dtype, device: str) -> _Trial:
    x, weight, bias = _pattern(6, 32, dtype=dtype), _pattern(48, 32, dtype=dtype), _pattern(48, dtype=dtype)
    packed = pack_linear(weight, rows=6)
    expected = functional.linear(x, weight, bias)
    yield linear(x, packed, bias), expected
    yield linear(x, packed, bias, silu=True), functional.silu(expected)
    # As used in Products: not packed, and transposed.
    yield linear(x, weight.t().contiguous().t()), functional.linear(x, weight)


def _try_convolution(dtype: torch.dtype, device: str) -> _Trial:
    x = _pattern(2, 8, 12, 12, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = _pattern(16, 8, 3, 3, dtype=dtype), _pattern(16, dtype=dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    other = _pattern(2, 16, 6, 6, dtype=dtype).contiguous(memory_format=torch.channels_last)
    expected = functional.conv2d(x, weight, bias, 2, 1)
    arguments = (pack_convolution(weight, padding=[1, 1], stride=[2, 2], shape=[2, 8, 12, 12]), bias, [1, 1], [2, 2])
    yield convolve(x, *arguments), expected
    yield convolve(x, *arguments, relu=True), expected.relu()
    yield convolve(x, *arguments, add=other.clone(), relu=True), (expected + other).relu()


def _try_adamw(dtype: torch.dtype, device: str) -> _Trial:
    results = []
    for step in (fused_adamw, adamw):
        value, second = (_pattern(5, 7, device=device) for _ in range(2))
        first, second = value * 0.1, second.square()
        moments, counts = ([first], [second]), [torch.tensor(3.0, device=device)]
        gradient = _pattern(7, 5, device=device).t().contiguous()
        step([value], [gradient], moments=moments, counts=counts, lr=0.01, coefficients=_COEFFICIENTS)
        results.append((value, first, second))
    yield from zip(*results, strict=True)


_TRIALS = {"linear": _try_linear, "convolution": _try_convolution, "adamw": _try_adamw}
