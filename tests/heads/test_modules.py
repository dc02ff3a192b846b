import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clipret.backbones import load_backbone
from clipret.config import TrainConfig
from clipret.errors import HeadError
from clipret.heads import LinearHead, build_head, load_head, parameter_names, save_head
from clipret.retrieval.gallery import embed
from tests.conftest import contents, random_clip
from tests.helpers.adapters import adapter

WEIGHTS = "ab" * 32
METADATA = {"model": "made", "weights_sha256": WEIGHTS, "fingerprint": "cd" * 32}


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
        for row, found in zip(getattr(plain, embed_side)(features), getattr(head, embed_side)(features), strict=True):
            expected = naive_adapter(row.detach().double().numpy(), down=down, up=up, ratio=ratio, relu=relu)
            np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-6)


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


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ("image_weight", "image_bias", "text_weight")),
        ({"train": "image"}, ("image_weight", "image_bias")),
        ({"train": "text"}, ("text_weight",)),
        ({"head": "adapter"}, ("image_down", "image_up", "text_down", "text_up")),
        ({"head": "adapter", "train": "image"}, ("image_down", "image_up")),
    ],
)
def test_what_learns_depends_on_the_head_and_its_sides(projections, settings, names):
    config = TrainConfig(cache="made.h5", **settings)
    assert parameter_names(config, adapter(projections).tensors) == names


def test_without_a_bias_none_learns():
    found = parameter_names(TrainConfig(cache="made.h5"), ["text_weight", "image_weight"])
    assert found == ("image_weight", "text_weight")


@pytest.mark.parametrize("kind", ["linear", "adapter"])
def test_a_built_head_shares_the_tensors_that_it_is_built_of(projections, kind):
    tensors = {name: tensor.clone() for name, tensor in adapter(projections).tensors.items()}
    head = build_head(TrainConfig(cache="made.h5", head=kind, adapter_ratio=0.4, adapter_relu=False), tensors)
    features = torch.randn(3, 24)
    before = head.embed_images(features)
    tensors["image_weight"][0] += 1
    assert not torch.allclose(head.embed_images(features), before)
    assert not before.requires_grad
    assert all(tensor.data_ptr() == tensors[name].data_ptr() for name, tensor in head.tensors.items())
    if kind == "adapter":
        assert (head.ratio, head.relu) == (0.4, False)


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


def test_a_saved_head_comes_back_bit_for_bit(projections, tmp_path):
    head = LinearHead(projections)
    with torch.no_grad():
        head.image_bias += 1
    save_head(head, path=tmp_path / "head.safetensors", metadata=METADATA)
    loaded = load_head(tmp_path / "head.safetensors", projections=projections, weights_sha256=WEIGHTS)
    for name, parameter in head.named_parameters():
        assert torch.equal(parameter, dict(loaded.named_parameters())[name])
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]


def test_a_head_for_other_widths_is_refused_with_both_shapes(projections, tmp_path):
    path = tmp_path / "head.safetensors"
    save_head(LinearHead(contents(dims=(24, 16, 8), bias=True).projections), path=path, metadata=METADATA)
    with pytest.raises(HeadError, match=r"has image_bias 8, image_weight 24x8.*needs image_bias 12"):
        load_head(path, projections=projections, weights_sha256=WEIGHTS)


def test_a_head_for_another_models_features_is_refused(projections, tmp_path):
    path = tmp_path / "head.safetensors"
    save_head(LinearHead(projections), path=path, metadata=METADATA)
    with pytest.raises(HeadError, match="trained on features of model made with weights abababababab, the cache's"):
        load_head(path, projections=projections, weights_sha256="0" * 64)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "there is no head at"),
        (lambda path: path.write_text("hello"), "is not a readable safetensors file"),
        (lambda path: path.write_bytes(b""), "is not a readable safetensors file"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), r"is not a head that this clipret reads \(kind none"),
    ],
)
def test_a_file_that_is_no_head_is_one_clear_line(write, message, projections, tmp_path):
    write(tmp_path / "head.safetensors")
    with pytest.raises(HeadError, match=message) as caught:
        load_head(tmp_path / "head.safetensors", projections=projections, weights_sha256=WEIGHTS)
    assert "\n" not in str(caught.value)


def test_a_head_that_is_not_finite_is_refused(projections, tmp_path):
    head = LinearHead(projections)
    with torch.no_grad():
        head.text_weight[0, 0] = torch.nan
    save_head(head, path=tmp_path / "head.safetensors", metadata=METADATA)
    with pytest.raises(HeadError, match="values in text_weight that are not finite"):
        load_head(tmp_path / "head.safetensors", projections=projections, weights_sha256=WEIGHTS)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are of another kind there")
def test_a_head_can_be_read_by_whoever_can_read_other_new_files(projections, tmp_path):
    (tmp_path / "other").touch()
    save_head(LinearHead(projections), path=tmp_path / "head.safetensors", metadata=METADATA)
    assert (tmp_path / "head.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
