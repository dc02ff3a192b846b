import sys

import numpy as np
import pytest
import torch
from conftest import contents, random_clip
from safetensors.torch import save_file

from clipret.backbones import load_backbone
from clipret.errors import HeadError
from clipret.heads import LinearHead, embed, load_head, save_head

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
