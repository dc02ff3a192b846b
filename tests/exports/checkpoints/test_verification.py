"""What is compared before an exported folder is called done."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipret.cache import FeatureCache
from clipret.config import ExportConfig
from clipret.errors import ExportError
from clipret.exports import TARGETS
from clipret.exports.checkpoints import verification
from clipret.exports.checkpoints.source import open_source
from clipret.exports.targets import clip as target_clip
from clipret.exports.targets.target import Target, Way
from tests.helpers.exported import SHAPES, embedded


@pytest.fixture
def config(tmp_path, vit_cache) -> ExportConfig:
    return ExportConfig(run=vit_cache.with_name("linear.safetensors"), to="clip", out=tmp_path / "out", cache=vit_cache)


@pytest.fixture
def opened(config):
    return open_source(config, encoder=True)


def sample_of(opened, tmp_path, *, root=None):
    return verification.take_sample(opened, root=root, scratch=tmp_path)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def verified(opened, tmp_path, *, write=None, **changes) -> list[dict]:
    """The clip target's two ways, of what `write` wrote."""
    target, folder = replace(target_clip.TARGET, **changes), tmp_path / "folder"
    folder.mkdir()
    (write or target.write)(opened.source, folder)
    return verification.verify(target, "clip", folder=folder, sample=sample_of(opened, tmp_path), scratch=tmp_path)


def with_weights(**change):
    """A write of the clip target with some weights changed: name -> function of a tensor."""

    def write(source, folder):
        weights = target_clip.folded_weights(source)
        for name, function in change.items():
            key = name.replace("__", ".")
            weights[key] = function(weights[key]).contiguous()
        torch.save(weights, folder / "clip.pt")

    return write


def test_the_sample_is_of_the_cache_s_rows_and_what_is_expected_is_their_embeddings(opened, vit_cache, tmp_path):
    sample, cache = sample_of(opened, tmp_path), FeatureCache(vit_cache)
    assert sample.captions == list(cache.captions)
    for side, rows in sample.rows.items():
        by_hand = embedded(vit_cache, vit_cache.with_name("linear.safetensors"), side)[rows]
        np.testing.assert_allclose(sample.expected[side], by_hand, atol=2e-6, rtol=0)
        assert sample.cached[side] < 2e-6
    assert [size_of(path) for path in sample.files] == list(SHAPES)
    assert {size_of(path) for path in sample.cropped} == {(64, 64)}


def test_rows_are_spread_from_the_first_to_the_last(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "_CAPTIONS", 3)
    monkeypatch.setattr(verification, "_IMAGES", 2)
    sample = sample_of(opened, tmp_path)
    assert sample.rows["text"].tolist() == [0, 5, 11]
    assert sample.rows["image"].tolist() == [0, 5]


def test_rounding_to_float16_is_in_the_first_way_alone(here, opened, tmp_path):
    rounded, whole = verified(opened, tmp_path)
    assert 1e-6 < rounded["difference"] < 1e-3
    assert whole["difference"] < 1e-6
    assert (rounded["texts"], rounded["images"]) == (12, 6)
    assert whole["preprocessing"]["largest"] >= 0


@pytest.mark.filterwarnings("ignore")
def test_load_state_dict_gives_the_folded_model_itself(opened, tmp_path):
    """clip's own model with the head in its places, bit for bit."""
    from clipret.backbones.clip_package import import_clip

    target_clip.write(opened.source, tmp_path)
    sample = sample_of(opened, tmp_path)
    texts, images = target_clip.TARGET.ways["clip.load and load_state_dict"].embed(
        tmp_path, sample.captions, sample.cropped
    )
    reference = opened.source.backbone.model
    tokens = import_clip().tokenize(sample.captions, truncate=True)
    pixels = torch.stack([opened.source.backbone.preprocess(Image.open(path)) for path in sample.cropped])
    head = opened.source.head.tensors
    with torch.no_grad():
        reference.visual.proj.copy_(head["image_weight"])
        reference.text_projection.copy_(head["text_weight"])
        by_hand = [reference.encode_text(tokens), reference.encode_image(pixels)]
    for embeddings, expected in zip((texts, images), by_hand, strict=True):
        rows = expected.numpy() / np.linalg.norm(expected.numpy(), axis=1, keepdims=True)
        assert np.abs(embeddings - rows).max() == 0


FAULTS = {
    "transposed image projection": {"visual__proj": lambda weight: weight.T},
    "transposed text projection": {"text_projection": lambda weight: weight.T},
    "swapped ends of text": {"token_embedding__weight": lambda weight: weight[[*range(49406), 49407, 49406]]},
    "norm left out": {"visual__ln_post__weight": torch.ones_like},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_weights_fail(here, opened, tmp_path, fault):
    with pytest.raises(ExportError) as caught:
        verified(opened, tmp_path, write=with_weights(**FAULTS[fault]))
    assert str(caught.value).startswith("clip.load gives other embeddings than clipret: they differ by ")
    assert "expected at most 1e-03. Nothing was written." in str(caught.value)


def test_gelu_in_place_of_quick_gelu_fails(here, opened, tmp_path, monkeypatch):
    from clip.model import QuickGELU

    monkeypatch.setattr(QuickGELU, "forward", lambda module, x: torch.nn.functional.gelu(x))
    with pytest.raises(ExportError, match="gives other embeddings"):
        verified(opened, tmp_path)


def test_values_that_are_no_numbers_and_other_shapes_fail(here, opened, tmp_path):
    def no_numbers(folder, texts, images):
        return np.full((len(texts), 64), np.nan, np.float32), np.full((len(images), 64), np.nan, np.float32)

    def narrow(folder, texts, images):
        return np.zeros((len(texts), 2), np.float32), np.zeros((len(images), 2), np.float32)

    sample = sample_of(opened, tmp_path)
    for number, embed in enumerate((no_numbers, narrow)):
        target = Target(lambda source: None, None, {"it": Way(embed, code="", needs="numpy")})
        here_only = {"target": target, "name": "clip"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target_clip, "TARGET", target)
            with pytest.raises(ExportError, match=("differ by nan", "differ by inf")[number]):
                verification.verify(*here_only.values(), folder=tmp_path, sample=sample, scratch=tmp_path)


def test_cropped_images_have_a_door_of_their_own_where_the_target_needs_one(here, opened, tmp_path):
    calls = []

    def embed(folder, texts, images):
        calls.append(("as they are", len(texts), len(images)))
        return sample.expected["text"][: len(texts)], sample.expected["image"]

    def cropped(folder, texts, images):
        calls.append(("cropped", len(texts), len(images)))
        return sample.expected["text"], sample.expected["image"]

    sample = sample_of(opened, tmp_path)
    target = Target(lambda source: None, None, {"it": Way(embed, code="", needs="numpy", cropped=cropped)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_clip, "TARGET", target)
        [result] = verification.verify(target, "clip", folder=tmp_path, sample=sample, scratch=tmp_path)
    assert calls == [("cropped", 12, 6), ("as they are", 12, 6)]
    assert result["difference"] == 0
    assert result["preprocessing"] == {"differ": 0, "largest": 0.0}


def test_a_target_without_encoder_is_compared_by_features(here, config, vit_cache, tmp_path):
    opened = open_source(config, encoder=False)
    assert opened.encoder is None
    sample = sample_of(opened, tmp_path)
    features = FeatureCache(vit_cache)
    np.testing.assert_array_equal(sample.features["text"], features.text_features[sample.rows["text"]])
    np.testing.assert_array_equal(sample.features["image"], features.image_features[sample.rows["image"]])
    by_hand = embedded(vit_cache, config.run, "image")[sample.rows["image"]]
    np.testing.assert_allclose(sample.expected["image"], by_hand, atol=1e-6, rtol=0)


def test_a_way_whose_package_is_missing_is_not_opened(opened, tmp_path):
    ways = {"it": Way(None, code="", needs="no_such_package", remark="remark")}
    assert verified(opened, tmp_path, ways=ways) == [
        {"way": "it", "remark": "remark", "tolerance": 1e-5, "opened": False}
    ]


def test_a_process_that_the_system_ended_is_said_to_be(opened, tmp_path, monkeypatch):
    answer = subprocess.CompletedProcess([], -9, stdout="", stderr="UserWarning: something else\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: answer)
    with pytest.raises(ExportError, match=r"was ended by signal 9, as the system does where memory runs out\. Nothing"):
        verified(opened, tmp_path)


def test_what_cannot_be_opened_fails_with_the_last_line_of_its_error(opened, tmp_path, monkeypatch):
    answer = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\nOSError: it is no checkpoint\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: answer)
    with pytest.raises(ExportError) as caught:
        verified(opened, tmp_path)
    assert (
        str(caught.value)
        == "clip.load cannot open what was written: OSError: it is no checkpoint. Nothing was written."
    )


def test_features_that_the_encoder_no_longer_gives_are_refused(config, vit_cache, tmp_path):
    """As of files that changed since the extraction."""
    opened = open_source(config, encoder=True)
    root = tmp_path / "changed"
    root.mkdir()
    for number, (width, height) in enumerate(SHAPES):
        Image.new("RGB", (width, height), (9 * number, 200, 30)).save(root / f"{number}.png")
    with pytest.raises(ExportError) as caught:
        sample_of(opened, tmp_path, root=root)
    message = str(caught.value)
    assert message.startswith(f"the image features of {vit_cache} are not what its encoder gives for these files")
    assert message.endswith(f"clipret verify {vit_cache} --sample 100")


def test_every_target_has_a_way_that_says_how_it_is_opened():
    from clipret.exports.checkpoints.stage import load_target

    for name in TARGETS:
        for way in load_target(name).ways.values():
            code = way.code.replace("{folder}", str(Path("x")))
            compile(code, name, "exec")
            assert "{" not in code.replace("{}", "")
