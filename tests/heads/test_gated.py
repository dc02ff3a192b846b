"""The gated head against its formula, autograd and CLIP's own head."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from clipret.heads.base import Start
from clipret.heads.gated import GatedHead, GatedUnit
from clipret.heads.linear import LinearHead
from clipret.machine.products import Products
from tests.conftest import contents
from tests.helpers.towers import EMBEDDING, RUNS, WIDTH, assert_tower_equals_autograd, random_tensors

PARTS = ("gate", "value", "out")


@pytest.fixture
def projections():
    return contents(bias=True).projections


def started(projections, *, init="clip", sides=("image", "text"), hidden=5):
    clip = LinearHead(projections).tensors
    generator = torch.Generator().manual_seed(3)
    tensors = GatedHead.start(clip, Start(init, sides, {"hidden": hidden}, generator))
    return GatedHead(tensors)


def naive(row, tensors, *, side):
    weight, bias, gate, value, out = (tensors[f"{side}_{part}"] for part in ("weight", "bias", *PARTS))
    before = row @ gate
    hidden = before / (1 + np.exp(-before)) * (row @ value)
    projected = row @ weight + bias + hidden @ out
    return projected / np.sqrt((projected**2).sum())


def test_a_gated_head_equals_its_formula_row_by_row(projections):
    head = started(projections, init="random")
    tensors = {name: tensor.double().numpy() for name, tensor in head.tensors.items()}
    tensors.setdefault("text_bias", np.zeros(12))
    for side, embed, width in (("image", head.embed_images, 24), ("text", head.embed_texts, 16)):
        features = torch.randn(6, width)
        for row, ours in zip(features.double().numpy(), embed(features).detach().numpy(), strict=True):
            np.testing.assert_allclose(ours, naive(row, tensors, side=side), atol=1e-6)


def test_before_it_is_trained_it_is_clips_own_head(projections):
    head, plain = started(projections), LinearHead(projections)
    images, texts = torch.randn(5, 24), torch.randn(5, 16)
    assert torch.equal(head.embed_images(images), plain.embed_images(images))
    assert torch.equal(head.embed_texts(texts), plain.embed_texts(texts))


def test_a_side_that_does_not_learn_has_no_unit(projections):
    head = started(projections, init="random", sides=("text",))
    assert head.metadata == {"sides": "text"}
    images = torch.randn(5, 24)
    assert torch.equal(head.embed_images(images), LinearHead(projections).embed_images(images))


@pytest.mark.parametrize("bias", [False, True])
def test_its_gradients_are_autograds(bias):
    tensors = {name: tensor for name, tensor in random_tensors(bias=bias).items() if "_down" not in name}
    tensors = {name: tensor for name, tensor in tensors.items() if "_up" not in name}
    generator = torch.Generator().manual_seed(2)
    for part, shape in (("gate", (4, WIDTH)), ("value", (4, WIDTH)), ("out", (EMBEDDING, 4))):
        tensors[f"image_{part}"] = torch.randn(RUNS, *shape, generator=generator, dtype=torch.float64)

    def reference(watched, features):
        gate, value, out = (watched[f"image_{part}"].transpose(1, 2) for part in PARTS)
        projected = features @ watched["image_weight"].transpose(1, 2)
        projected = projected + (functional.silu(features @ gate) * (features @ value)) @ out
        return functional.normalize(projected + (watched["image_bias"][:, None] if bias else 0), dim=2)

    tower = GatedUnit(tensors, side="image", products=Products("cpu"))
    assert_tower_equals_autograd(tower, reference, tensors, learning=set(tensors))


def test_its_untrained_tensors_compute_clips_embeddings(projections):
    head = started(projections, init="random")
    images = torch.randn(5, 24)
    untrained = head.like(head.untrained(projections))
    assert torch.equal(untrained.embed_images(images), LinearHead(projections).embed_images(images))
