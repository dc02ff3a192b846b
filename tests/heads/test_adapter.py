import numpy as np
import pytest
import torch
from torch.nn import functional

from clipret.heads.adapter import Adapter, AdapterHead
from clipret.heads.base import learning_names
from clipret.heads.linear import LinearHead
from clipret.machine.products import Products
from tests.conftest import contents
from tests.helpers.adapters import adapter
from tests.helpers.towers import ROWS, RUNS, WIDTH, assert_tower_equals_autograd, project, random_tensors


@pytest.fixture
def projections():
    return contents(bias=True).projections


def naive_adapter(row, *, down, up, ratio, relu):
    raised = [max(0.0, float(row @ column)) for column in down.T] @ up
    raised = [max(0.0, value) if relu else value for value in raised]
    mixed = [ratio * value + (1 - ratio) * own for value, own in zip(raised, row, strict=True)]
    return np.array(mixed) / max(1e-12, np.sqrt(sum(value**2 for value in mixed)))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_an_adapter_equals_its_formula_row_by_row(projections, ratio, relu):
    head, plain = adapter(projections, ratio=ratio, relu=relu), LinearHead(projections)
    for side, embed_side, width in (("image", "embed_images", 24), ("text", "embed_texts", 16)):
        features = torch.randn(6, width)
        down, up = (head.tensors[f"{side}_{part}"].double().numpy() for part in ("down", "up"))
        for row, ours in zip(getattr(plain, embed_side)(features), getattr(head, embed_side)(features), strict=True):
            expected = naive_adapter(row.detach().double().numpy(), down=down, up=up, ratio=ratio, relu=relu)
            np.testing.assert_allclose(ours.detach().numpy(), expected, atol=1e-6)


def test_an_adapter_on_one_side_leaves_the_other_to_clip(projections):
    head, plain = adapter(projections, sides=("text",)), LinearHead(projections)
    images, texts = torch.randn(5, 24), torch.randn(5, 16)
    assert torch.equal(head.embed_images(images), plain.embed_images(images))
    assert not torch.allclose(head.embed_texts(texts), plain.embed_texts(texts))


def test_an_adapter_whose_up_is_zero_can_learn_all_of_it(projections):
    head = adapter(projections)
    with torch.no_grad():
        head.image_up.zero_()
    (head.embed_images(torch.randn(50, 24)) @ torch.randn(12)).sum().backward()
    assert (head.image_up.grad != 0).all()


@pytest.mark.parametrize("sides", [("image", "text"), ("image",), ("text",)])
def test_the_adapters_of_the_sides_that_learn_do_so(projections, sides):
    names = tuple(f"{side}_{part}" for side in sides for part in ("down", "up"))
    assert learning_names(AdapterHead, sides=sides, tensors=adapter(projections).tensors) == names


def adapt(tensors, features, *, ratio, relu):
    base = project(tensors, features)
    raised = (base @ tensors["image_down"].transpose(1, 2)).relu() @ tensors["image_up"].transpose(1, 2)
    return functional.normalize(ratio * (raised.relu() if relu else raised) + (1 - ratio) * base, dim=2)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_an_adapters_gradients_are_autograds_and_its_projection_stays(bias, relu):
    tensors = random_tensors(bias=bias)
    tower = Adapter(tensors, side="image", ratio=0.3, relu=relu, products=Products("cpu"))
    assert_tower_equals_autograd(
        tower,
        lambda watched, features: adapt(watched, features, ratio=0.3, relu=relu),
        tensors,
        learning={"image_down", "image_up"},
    )


def test_an_adapter_that_starts_at_zero_moves():
    """relu's subgradient at 0 is taken as 1 for its last relu: else nothing would ever reach `up`."""
    tensors = random_tensors(bias=False)
    tensors["image_up"].zero_()
    tower = Adapter(tensors, side="image", ratio=0.2, relu=True, products=Products("cpu"))
    embeddings = tower.forward(torch.randn(RUNS, ROWS, WIDTH, dtype=torch.float64))
    pull = torch.randn_like(embeddings)
    gradients = tower.backward(pull.clone(), along=(embeddings * pull).sum(1, keepdim=True))
    assert all(gradient.abs().max() > 0 for gradient in gradients["image_up"])
