import platform
from contextlib import suppress

import pytest
import torch

from clipret.machine import products
from clipret.machine.products import Products

SHAPES = [(1, 1, 1, 1), (1, 7, 5, 3), (1, 256, 300, 64), (3, 17, 33, 9), (2, 256, 300, 64)]


def factors(shape, dtype=torch.float32):
    runs, rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(runs, rows, inner, generator=generator, dtype=dtype)
    return left, torch.randn(runs, columns, inner, generator=generator, dtype=dtype).transpose(1, 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_float64(shape):
    left, right = factors(shape)
    expected = (left.double() @ right.double()).float()
    for first, second in ((left, right), (left.transpose(1, 2).contiguous().transpose(1, 2), right.contiguous())):
        torch.testing.assert_close(Products("cpu")(first, second), expected, rtol=1e-4, atol=1e-4)
        apart = Products("cpu").separately(first, second)
        assert len(apart) == shape[0]
        torch.testing.assert_close(torch.stack(list(apart)), expected, rtol=1e-4, atol=1e-4)


def test_a_factor_of_one_run_is_that_of_all():
    left, right = factors((3, 8, 16, 4))
    torch.testing.assert_close(Products("cpu")(left[:1], right)[2], left[0] @ right[2])
    torch.testing.assert_close(Products("cpu")(left, right[:1])[1], left[1] @ right[0])


def test_float64_stays_float64():
    left, right = factors((1, 8, 16, 4), dtype=torch.float64)
    torch.testing.assert_close(Products("cpu")(left, right), left @ right, rtol=1e-12, atol=1e-12)


def test_bfloat16_rounds_the_factors_and_returns_float32():
    left, right = factors((2, 8, 64, 4))
    rounded = Products("cpu", precision="bf16")(left, right)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, left.bfloat16().float() @ right.bfloat16().float(), rtol=2e-2, atol=1e-1)
    assert not torch.equal(rounded, Products("cpu")(left, right))


def test_other_processors_take_torchs_own_products(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    left, right = factors((1, 8, 16, 4))
    assert torch.equal(Products("cpu")(left, right), torch.bmm(left, right))


class Flags:
    """Stands for torch.backends.cuda.matmul, and keeps what was set."""

    def __init__(self, allowed):
        self.history, self.__dict__["_now"] = [], allowed

    @property
    def allow_tf32(self):
        return self._now

    @allow_tf32.setter
    def allow_tf32(self, allowed):
        self._now = allowed
        self.history.append(allowed)


@pytest.mark.parametrize(
    ("before", "allowed", "history"),
    [(False, False, []), (False, True, [True, False]), (True, False, [False, True]), (True, True, [])],
)
def test_tf32_is_as_before_after_a_product(monkeypatch, before, allowed, history):
    flags = Flags(before)
    monkeypatch.setattr(torch.backends.cuda, "matmul", flags)
    with suppress(ZeroDivisionError), products._tf32(allowed):
        assert flags.allow_tf32 == allowed
        raise ZeroDivisionError
    assert (flags.allow_tf32, flags.history) == (before, history)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("before", [False, True])
def test_on_a_gpu_every_product_has_its_own_precision(before):
    left, right = (factor.cuda() for factor in factors((1, 64, 512, 64)))
    exact = (left.double() @ right.double()).float()
    flags = torch.backends.cuda.matmul
    flags.allow_tf32 = before
    try:
        rounded, whole = Products("cuda", precision="tf32"), Products("cuda")
        errors = [(multiply(left, right) - exact).abs().max().item() for multiply in (rounded, whole, rounded)]
        assert flags.allow_tf32 == before
    finally:
        flags.allow_tf32 = False
    assert errors[0] == errors[2] > 10 * errors[1]
