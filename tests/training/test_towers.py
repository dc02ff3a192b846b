"""Both sides of a head, forwards and backwards, against autograd through the heads' own modules in float64."""

import pytest
import torch
from torch.nn import functional

from clipret.machine.products import Products
from clipret.training.towers import Adapter, Projection

RUNS, ROWS, WIDTH, EMBEDDING, BOTTLENECK = 3, 7, 10, 8, 2


def tensors(*, bias, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def made(*shape):
        return torch.randn(RUNS, *shape, generator=generator, dtype=torch.float64)

    found = {"image_weight": made(EMBEDDING, WIDTH), "image_down": made(BOTTLENECK, EMBEDDING)}
    found |= {"image_up": made(EMBEDDING, BOTTLENECK)}
    return {**found, "image_bias": made(EMBEDDING)} if bias else found


def projected(values, features):
    bias = values["image_bias"][:, None] if "image_bias" in values else 0
    return functional.normalize(features @ values["image_weight"].transpose(1, 2) + bias, dim=2)


def adapted(values, features, *, ratio, relu):
    base = projected(values, features)
    raised = (base @ values["image_down"].transpose(1, 2)).relu() @ values["image_up"].transpose(1, 2)
    return functional.normalize(ratio * (raised.relu() if relu else raised) + (1 - ratio) * base, dim=2)


def compare(tower, reference, values, *, learning):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(RUNS, ROWS, WIDTH, generator=generator, dtype=torch.float64)
    pull = torch.randn(RUNS, EMBEDDING, ROWS, generator=generator, dtype=torch.float64)
    watched = {name: values[name].clone().requires_grad_(name in learning) for name in values}
    expected = reference(watched, features).transpose(1, 2)
    (expected * pull).sum().backward()
    found = tower.forward(features)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12)
    gradients = tower.backward(pull.clone(), along=(found * pull).sum(1, keepdim=True))
    assert gradients.keys() == learning
    for name in learning:
        torch.testing.assert_close(torch.stack(list(gradients[name])), watched[name].grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bias", [False, True])
def test_a_projections_gradients_are_autograds(bias):
    values = tensors(bias=bias)
    tower = Projection(values, side="image", learns=True, products=Products("cpu"))
    compare(tower, projected, values, learning={"image_weight", "image_bias"} & values.keys())


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_an_adapters_gradients_are_autograds_and_its_projection_stays(bias, relu):
    values = tensors(bias=bias)
    tower = Adapter(values, side="image", ratio=0.3, relu=relu, products=Products("cpu"))
    compare(
        tower,
        lambda found, features: adapted(found, features, ratio=0.3, relu=relu),
        values,
        learning={"image_down", "image_up"},
    )


def test_what_does_not_learn_has_no_gradient():
    values = tensors(bias=True)
    tower = Projection(values, side="image", learns=False, products=Products("cpu"))
    found = tower.forward(torch.randn(RUNS, ROWS, WIDTH, dtype=torch.float64))
    assert tower.backward(torch.ones_like(found), along=found.sum(1, keepdim=True)) == {}


def test_an_adapter_that_starts_at_zero_moves():
    """relu's subgradient at 0 is taken as 1 for its last relu: else nothing would ever reach `up`."""
    values = tensors(bias=False)
    values["image_up"].zero_()
    tower = Adapter(values, side="image", ratio=0.2, relu=True, products=Products("cpu"))
    found = tower.forward(torch.randn(RUNS, ROWS, WIDTH, dtype=torch.float64))
    pull = torch.randn_like(found)
    gradients = tower.backward(pull.clone(), along=(found * pull).sum(1, keepdim=True))
    assert all(gradient.abs().max() > 0 for gradient in gradients["image_up"])


def test_a_feature_of_zeros_is_embedded_as_zeros():
    tower = Projection(tensors(bias=False), side="image", learns=True, products=Products("cpu"))
    assert not tower.forward(torch.zeros(RUNS, ROWS, WIDTH, dtype=torch.float64)).any()
