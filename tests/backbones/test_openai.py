import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from clipret.backbones import load_backbone
from clipret.errors import BackboneError
from tests.conftest import random_clip
from tests.helpers.backbone_models import CAPTIONS, embedded, error_of, pictures, real_clip


def text_ids(backbone, captions=CAPTIONS):
    return backbone.pad(backbone.tokenize(captions)[0])


def require_contract(backbone, reference, *, images: int):
    """Features times projection equal the reference model's own output; the model is left as it was."""
    import clip

    pixels = pictures(images, side=reference.visual.input_resolution)
    floats = backbone.normalise(pixels)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    with torch.inference_mode():
        expected_images, expected_texts = reference.encode_image(floats), reference.encode_text(clip.tokenize(CAPTIONS))
    found_images = embedded(backbone, "image", backbone.encode_image(pixels))
    found_texts = embedded(backbone, "text", backbone.encode_text(text_ids(backbone)))
    for result, expected in ((found_images, expected_images), (found_texts, expected_texts)):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.inference_mode():
        assert torch.equal(backbone.model.encode_image(floats), reference.encode_image(floats))


def test_features_times_projection_equal_clips_own_output(family, checkpoints):
    backbone = load_backbone(str(checkpoints[family]))
    require_contract(backbone, random_clip(family), images=5)
    assert ("image/bias" in backbone.projections()) == (family == "resnet")
    assert backbone.projections()["image/weight"].shape == ((256, 32) if family == "resnet" else (64, 32))


@pytest.mark.parametrize("name", ["ViT-B/32", "RN50"])
@pytest.mark.ci
def test_the_contract_holds_at_real_sizes(name, tmp_path):
    model = real_clip(name)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    require_contract(load_backbone(str(tmp_path / "model.pt")), model, images=2)


@pytest.mark.parametrize("wrong", ["visual", "text", "projection"])
def test_one_weight_off_breaks_the_contract(family, checkpoints, wrong):
    backbone, other = load_backbone(str(checkpoints[family])), random_clip(family)
    with torch.no_grad():
        if wrong == "visual":
            other.visual.conv1.weight[0, 0, 0, 0] += 0.5
        elif wrong == "text":
            other.token_embedding.weight[text_ids(backbone)[0, 1], 0] += 0.5
        else:
            other.text_projection[0, 0] += 0.5
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        require_contract(backbone, other, images=5)


def test_require_exact_accepts_the_features_and_refuses_others(family, checkpoints):
    backbone = load_backbone(str(checkpoints[family]))
    pixels = pictures(2, side=64)
    features = backbone.encode_image(pixels)
    backbone.require_exact("image", inputs=pixels, features=features)
    off = features.clone()
    off[0, 0] += 0.01 * features.abs().max()
    with pytest.raises(BackboneError, match=r"image features of .* differ from clip's own output"):
        backbone.require_exact("image", inputs=pixels, features=off)
    ids = text_ids(backbone)
    backbone.require_exact("text", inputs=ids, features=backbone.encode_text(ids))
    with pytest.raises(BackboneError, match=r"text features of .* differ"):
        backbone.require_exact("text", inputs=ids, features=torch.full_like(backbone.encode_text(ids), torch.nan))


def test_a_torchscript_archive_loads_like_the_state_dict(family, checkpoints, tmp_path):
    model = random_clip(family)
    archive = tmp_path / "archive.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(1, 3, 64, 64), torch.zeros(1, 77, dtype=torch.long))
        torch.jit.trace(model, example, check_trace=False).save(str(archive))
    pixels = pictures(2, side=64)
    backbone = load_backbone(str(archive))
    assert torch.equal(backbone.encode_image(pixels), load_backbone(str(checkpoints[family])).encode_image(pixels))
    assert backbone.weights_sha256 != load_backbone(str(checkpoints[family])).weights_sha256


def test_a_batch_larger_than_a_cache_is_cut_and_has_the_same_features_and_the_same_bits_again(family, checkpoints):
    backbone = load_backbone(str(checkpoints[family]))
    piece = backbone._image_tower.piece
    few = pictures(16, side=64)
    pixels = few.repeat(piece // 16 + 2, 1, 1, 1)
    features = backbone.encode_image(pixels)
    assert torch.equal(features, backbone.encode_image(pixels))
    assert error_of(features, backbone.encode_image(few).repeat(piece // 16 + 2, 1)) < 1e-5
    ids = text_ids(backbone).repeat(60, 1)
    assert len(ids) > backbone._text_tower.piece(ids.shape[1])
    assert torch.equal(backbone.encode_text(ids), backbone.encode_text(ids))
    assert error_of(backbone.encode_text(ids), backbone.encode_text(ids[:3]).repeat(60, 1)) < 1e-5


def test_pieces_of_a_batch_differ_by_one_row_at_most(checkpoints):
    backbone = load_backbone(str(checkpoints["resnet"]))
    sizes = []

    def encode(piece):
        sizes.append(len(piece))
        return piece

    rows = torch.arange(100)
    assert torch.equal(backbone._in_pieces(rows, most=32, encode=encode), rows)
    assert sizes == [25, 25, 25, 25]
    sizes.clear()
    assert torch.equal(backbone._in_pieces(rows[:7], most=3, encode=encode), rows[:7])
    assert sizes == [3, 3, 1]


def test_what_the_crop_and_the_values_make_is_clips_own_preprocessing(checkpoints):
    backbone = load_backbone(str(checkpoints["transformer"]))
    generator = np.random.default_rng(0)
    for mode, shape in (("RGB", (90, 70, 3)), ("L", (64, 200)), ("RGBA", (33, 65, 4))):
        image = Image.fromarray(generator.integers(0, 256, size=shape, dtype=np.uint8), mode=None)
        assert image.mode == mode
        cropped = backbone.crop(image)
        assert (cropped.mode, cropped.size) == ("RGB", (64, 64))
        values = backbone.normalise(torch.from_numpy(np.array(cropped))[None])
        assert torch.equal(values[0], backbone.preprocess(image))


def test_a_pickled_backbone_encodes_to_the_same_bits(family, checkpoints):
    backbone = load_backbone(str(checkpoints[family]))
    pixels, ids = pictures(3, side=64), text_ids(backbone)
    expected = backbone.encode_image(pixels), backbone.encode_text(ids)
    # What was packed for the processor stays behind.
    restored = pickle.loads(pickle.dumps(backbone))
    assert torch.equal(restored.encode_image(pixels), expected[0])
    assert torch.equal(restored.encode_text(ids), expected[1])
    assert restored.kernels == backbone.kernels
    assert len(pickle.dumps(backbone)) < 1.1 * checkpoints[family].stat().st_size


@pytest.mark.ci
def test_unpickling_in_a_new_process_says_nothing(checkpoints, tmp_path):
    backbone = load_backbone(str(checkpoints["transformer"]))
    # First the one that needs less.
    values = {"crop": backbone.crop, "openaiclip": backbone}
    for name, value in values.items():
        (tmp_path / name).write_bytes(pickle.dumps(value))
    read = f"import pickle\nfor name in {list(values)}: print(type(pickle.load(open(name, 'rb'))).__name__)"
    command = [sys.executable, "-c", read]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout.lower().split(), done.stderr) == (list(values), "")


def test_what_is_prepared_is_not_made_again(family, checkpoints):
    backbone = load_backbone(str(checkpoints[family]))
    assert "_encode_pixels" not in vars(backbone)
    backbone.prepare()
    prepared = dict(vars(backbone))
    backbone.encode_image(pictures(1, side=64))
    backbone.encode_text(text_ids(backbone))
    assert all(vars(backbone)[name] is value for name, value in prepared.items())
    assert set(vars(backbone)) == set(prepared)


def test_a_preprocessing_of_other_steps_is_refused(checkpoints):
    backbone = load_backbone(str(checkpoints["resnet"]))
    backbone.preprocess.transforms.pop()
    with pytest.raises(BackboneError) as caught:
        backbone.prepare()
    assert str(caught.value).startswith(
        f"the preprocessing of {backbone.name} ends with function, ToTensor, not with ToTensor, Normalize; "
        f"clipret does not support this version of clip ("
    )
