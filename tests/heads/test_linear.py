import numpy as np
import pytest
import torch

from clipret.backbones import load_backbone
from clipret.heads.base import learning_names
from clipret.heads.linear import LinearHead, Projection
from clipret.machine.products import Products
from clipret.retrieval.gallery import embed
from tests.conftest import contents, random_clip
from tests.helpers.towers import ROWS, RUNS, WIDTH, assert_tower_equals_autograd, project, random_tensors


@pytest.fixture
def projections():
    return contents(bias=True).projections


def test_an_untrained_head_is_zero_shot_clip(family, checkpoints):
    backbone, model = load_backbone(str(checkpoints[family])), random_clip(family)
    pixels = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    ids = backbone.pad(backbone.tokenize(["a dog", "a cat", "the sun"])[0])
    head = LinearHead(backbone.projections())
    with torch.inference_mode():
        normalised, padded = backbone.normalise(pixels), torch.nn.functional.pad(ids, (0, 77 - ids.shape[1]))
        _, expected = model(normalised, padded)
        scale = model.logit_scale.exp()
        images, texts = model.encode_image(normalised), model.encode_text(padded)
        ours = head.embed_texts(backbone.encode_text(ids)) @ head.embed_images(backbone.encode_image(pixels)).T
    torch.testing.assert_close(ours * scale, expected, rtol=1e-4, atol=1e-4)
    assert images.shape[1] == texts.shape[1] == head.text_weight.shape[1]


def test_weights_are_float32_and_float16_features_are_computed_in_it(projections):
    head = LinearHead(projections)
    assert {parameter.dtype for parameter in head.parameters()} == {torch.float32}
    embeddings = head.embed_images(torch.randn(5, 24).half())
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(5))


def test_a_head_of_a_caches_projections_never_changes_the_cache(projections):
    head = LinearHead(projections)
    with torch.no_grad():
        head.text_weight.zero_()
    assert projections["text/weight"].any()


@pytest.mark.parametrize("rows", [1, 7, 8, 9])
def test_embed_in_blocks_equals_embed_at_once(projections, rows):
    head = LinearHead(projections)
    features = np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float16)
    whole = head.embed_texts(torch.from_numpy(features)).detach()
    torch.testing.assert_close(embed(head.embed_texts, features, device="cpu", block=4), whole)


@pytest.mark.parametrize(
    ("sides", "names"),
    [
        (("image", "text"), ("image_weight", "image_bias", "text_weight", "text_bias")),
        (("image",), ("image_weight", "image_bias")),
        (("text",), ("text_weight", "text_bias")),
    ],
)
def test_the_weights_and_the_bias_of_the_sides_that_learn_do_so(projections, sides, names):
    assert learning_names(LinearHead, sides=sides, tensors=LinearHead(projections).tensors) == names


def test_without_a_bias_none_learns():
    tensors = LinearHead(contents().projections).tensors
    assert learning_names(LinearHead, sides=("image", "text"), tensors=tensors) == ("image_weight", "text_weight")


@pytest.mark.parametrize("bias", [False, True])
def test_a_projections_gradients_are_autograds(bias):
    tensors = random_tensors(bias=bias)
    tower = Projection(tensors, side="image", learns=True, products=Products("cpu"))
    assert_tower_equals_autograd(tower, project, tensors, learning={"image_weight", "image_bias"} & tensors.keys())


def test_what_does_not_learn_has_no_gradient():
    tower = Projection(random_tensors(bias=True), side="image", learns=False, products=Products("cpu"))
    embeddings = tower.forward(torch.randn(RUNS, ROWS, WIDTH, dtype=torch.float64))
    assert tower.backward(torch.ones_like(embeddings), along=embeddings.sum(1, keepdim=True)) == {}


def test_a_feature_of_zeros_is_embedded_as_zeros():
    tower = Projection(random_tensors(bias=False), side="image", learns=True, products=Products("cpu"))
    assert not tower.forward(torch.zeros(RUNS, ROWS, WIDTH, dtype=torch.float64)).any()
