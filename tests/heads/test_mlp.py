"""The MLP head against its formula, autograd and CLIP's own head."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from clipret.heads.base import Start
from clipret.heads.linear import LinearHead
from clipret.heads.mlp import Blocks, MLPHead
from clipret.machine.products import Products
from tests.conftest import contents
from tests.helpers.towers import RUNS, WIDTH, assert_tower_equals_autograd, random_tensors


@pytest.fixture
def projections():
    return contents(bias=True).projections


def started(projections, *, init="clip", sides=("image", "text"), blocks=2):
    clip = LinearHead(projections).tensors
    settings = {"hidden": 5, "blocks": blocks}
    generator = torch.Generator().manual_seed(3)
    return MLPHead(MLPHead.start(clip, Start(init, sides, settings, generator)))


def naive(row, tensors, *, side, blocks):
    for block in range(blocks):
        up, shift, down = (tensors[f"{side}_{part}_{block}"] for part in ("up", "shift", "down"))
        normed = (row - row.mean()) / np.sqrt(((row - row.mean()) ** 2).mean() + 1e-5)
        before = normed @ up + shift
        row = row + before / (1 + np.exp(-before)) @ down
    projected = row @ tensors[f"{side}_weight"] + tensors.get(f"{side}_bias", 0)
    return projected / np.sqrt((projected**2).sum())


@pytest.mark.parametrize("blocks", [1, 3])
def test_an_mlp_head_equals_its_formula_row_by_row(projections, blocks):
    head = started(projections, init="random", blocks=blocks)
    with torch.no_grad():
        for name, tensor in head.named_parameters():
            if "_shift_" in name:
                tensor.normal_()
    tensors = {name: tensor.double().numpy() for name, tensor in head.tensors.items()}
    for side, embed, width in (("image", head.embed_images, 24), ("text", head.embed_texts, 16)):
        features = torch.randn(6, width)
        for row, ours in zip(features.double().numpy(), embed(features).detach().numpy(), strict=True):
            np.testing.assert_allclose(ours, naive(row, tensors, side=side, blocks=blocks), atol=2e-6)


def test_before_it_is_trained_it_is_clips_own_head(projections):
    head, plain = started(projections), LinearHead(projections)
    images, texts = torch.randn(5, 24), torch.randn(5, 16)
    assert torch.equal(head.embed_images(images), plain.embed_images(images))
    assert torch.equal(head.embed_texts(texts), plain.embed_texts(texts))


def test_a_side_that_does_not_learn_has_no_blocks(projections):
    head = started(projections, init="random", sides=("text",))
    assert head.metadata == {"sides": "text"}
    images = torch.randn(5, 24)
    assert torch.equal(head.embed_images(images), LinearHead(projections).embed_images(images))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_its_gradients_are_autograds(bias, blocks):
    drawn = random_tensors(bias=bias)
    tensors = {name: tensor for name, tensor in drawn.items() if name in ("image_weight", "image_bias")}
    generator = torch.Generator().manual_seed(2)
    for block in range(blocks):
        for part, shape in (("up", (4, WIDTH)), ("shift", (4,)), ("down", (WIDTH, 4))):
            values = torch.randn(RUNS, *shape, generator=generator, dtype=torch.float64)
            tensors[f"image_{part}_{block}"] = values

    def reference(watched, features):
        x = features
        for block in range(blocks):
            up, down = (watched[f"image_{part}_{block}"].transpose(1, 2) for part in ("up", "down"))
            before = functional.layer_norm(x, (WIDTH,)) @ up + watched[f"image_shift_{block}"][:, None]
            x = x + functional.silu(before) @ down
        projected = x @ watched["image_weight"].transpose(1, 2)
        return functional.normalize(projected + (watched["image_bias"][:, None] if bias else 0), dim=2)

    tower = Blocks(tensors, side="image", products=Products("cpu"))
    assert_tower_equals_autograd(tower, reference, tensors, learning=set(tensors))


def test_its_untrained_tensors_compute_clips_embeddings(projections):
    head = started(projections, init="random")
    texts = torch.randn(5, 16)
    untrained = head.like(head.untrained(projections))
    assert torch.equal(untrained.embed_texts(texts), LinearHead(projections).embed_texts(texts))
