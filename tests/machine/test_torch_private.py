"""Private operations of torch are used if they give the results of the public ones, and not otherwise."""

import ast
import platform
import re
import types
from pathlib import Path

import pytest
import torch

import clipret
from clipret.backbones.kernels import choose_kernels
from clipret.machine import torch_private
from clipret.machine.products import Products
from clipret.machine.torch_private import PUBLIC_ONLY, Coefficients, adamw, choose_adamw, fused_adamw, why_public

OPERATIONS = ("linear", "convolution", "adamw")


@pytest.fixture(autouse=True)
def untried(monkeypatch):
    """No operation tested yet, and private ones allowed."""
    monkeypatch.delenv(PUBLIC_ONLY, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    tried = torch_private._tried
    tried.cache_clear()
    yield
    tried.cache_clear()


@pytest.mark.parametrize("shut", ["1", "yes"])
def test_the_environment_shuts_the_door(monkeypatch, shut):
    monkeypatch.setenv(PUBLIC_ONLY, shut)
    monkeypatch.setattr(torch_private, "_tried", None)
    assert {why_public(operation) for operation in OPERATIONS} == {"CLIPRET_PUBLIC_TORCH_ONLY is set"}
    assert choose_adamw("cpu") is adamw
    assert choose_kernels(torch.device("cpu"), dtype=torch.float32, compiled=False) == "torch"
    left, right = torch.randn(1, 3, 4), torch.randn(1, 4, 5)
    monkeypatch.setattr(torch_private, "linear", None)
    assert torch.equal(Products("cpu")(left, right), torch.bmm(left, right))


@pytest.mark.parametrize("value", ["", "0"])
def test_an_empty_setting_and_0_leave_it_open(monkeypatch, value):
    monkeypatch.setenv(PUBLIC_ONLY, value)
    monkeypatch.setattr(torch_private, "_TRIALS", {"adamw": lambda dtype, device: []})
    assert why_public("adamw") is None
    assert choose_adamw("cpu") is fused_adamw


def test_other_processors_and_a_torch_without_onednn_are_named(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert why_public("linear") == "this torch has no oneDNN"
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert why_public("convolution") == "the processor is not an x86-64"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_missing_operation_is_not_used(monkeypatch, operation):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ops", types.SimpleNamespace(mkldnn=types.SimpleNamespace()))
    monkeypatch.delattr(torch, "_fused_adamw_")
    assert re.match(rf"torch {re.escape(torch.__version__)} refuses it: .*attribute '_\w+'", why_public(operation))


@pytest.mark.parametrize("error", [RuntimeError("needs avx\nat line 3"), TypeError("needs avx"), NotImplementedError()])
def test_an_operation_that_refuses_is_not_used(monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(torch, "_fused_adamw_", refuse)
    reason = "needs avx" if str(error) else "NotImplementedError"
    assert why_public("adamw") == f"torch {torch.__version__} refuses it: {reason}"


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("result", [1.001, float("nan")])
def test_an_operation_with_other_results_is_not_used(monkeypatch, operation, result):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    ones = torch.ones(3)
    monkeypatch.setattr(torch_private, "_TRIALS", {operation: lambda *_: [(ones, ones), (ones * result, ones)]})
    error = "1.0e-03" if result == result else "nan"
    assert why_public(operation) == f"its result differs from torch's public operation by {error} (relative)"


def test_every_operation_is_tried_once(monkeypatch):
    tried = []
    monkeypatch.setattr(torch_private, "_TRIALS", {"adamw": lambda dtype, device: tried.append(device) or []})
    for device in ("cpu", "cpu", "cuda", "cuda"):
        assert why_public("adamw", device=device) is None
    assert tried == ["cpu", "cuda"]


def test_a_trial_leaves_the_random_numbers_and_the_threads_of_the_user_alone():
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    for operation in OPERATIONS:
        why_public(operation)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("step", [adamw, pytest.param(fused_adamw, id="fused_adamw")])
def test_both_forms_of_adamw_are_that_of_torch(step, decay):
    if step is fused_adamw and why_public("adamw"):
        pytest.skip(why_public("adamw"))
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(4, 3, generator=generator), torch.randn((), generator=generator)]
    reference = [value.clone().requires_grad_() for value in values]
    optimiser = torch.optim.AdamW(reference, lr=0.01, betas=(0.8, 0.99), weight_decay=decay, eps=1e-6)
    moments = tuple([torch.zeros_like(value) for value in values] for _ in range(2))
    count = torch.tensor(0.0)
    for _ in range(20):
        gradients = [torch.randn(value.shape, generator=generator) for value in values]
        for parameter, gradient in zip(reference, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimiser.step()
        count += 1
        coefficients = Coefficients(beta1=0.8, beta2=0.99, decay=decay, eps=1e-6)
        step(values, gradients, moments=moments, counts=[count, count], lr=0.01, coefficients=coefficients)
    torch.testing.assert_close(values, [parameter.detach() for parameter in reference], rtol=1e-5, atol=1e-6)


def test_the_plain_adamw_takes_a_rate_in_a_tensor():
    """As CUDA graphs need it."""
    results = []
    for lr in (0.25, torch.tensor(0.25)):
        values, moments = [torch.arange(4.0)], ([torch.zeros(4)], [torch.zeros(4)])
        settings = {"lr": lr, "coefficients": Coefficients(beta1=0.5, beta2=0.75, decay=0.5, eps=1e-8)}
        adamw(values, [torch.arange(4.0) - 1], moments=moments, counts=[torch.tensor(1.0)], **settings)
        results.append(values[0])
    assert torch.equal(*results)


@pytest.mark.ci
def test_no_other_module_uses_private_operations():
    """`torch._foreach_*` are in torch's manual."""
    package = Path(clipret.__file__).parent
    private = re.compile(r"torch(\.\w+)*\.(_(?!foreach_|_)|ops\b)")
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and private.match(ast.unparse(node))
    }
    assert users == {"machine/torch_private.py"}
