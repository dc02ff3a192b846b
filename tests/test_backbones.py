import random
import sys
import types
import urllib.error
import urllib.request
import warnings

import numpy as np
import pytest
import torch
from conftest import random_clip, randomise

from clipret.backbones import find_too_long, load_backbone
from clipret.errors import BackboneError

CAPTIONS = ["a red bus", "two dogs on a very long beach at night", "x"]


def real_clip(name: str) -> torch.nn.Module:
    """A CLIP of the real sizes of an OpenAI model, with random weights."""
    from clip.model import CLIP

    sizes = {
        "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
        "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
    }
    torch.manual_seed(0)
    return randomise(CLIP(*sizes[name]))


def require_contract(backbone, reference, *, images: int):
    """Features times projection equal the reference model's own output; the model is left as it was."""
    side = reference.visual.input_resolution
    pixels = torch.randn(images, 3, side, side, generator=torch.Generator().manual_seed(1))
    tokens, _ = backbone.tokenize(CAPTIONS)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    with torch.inference_mode():
        expected_images, expected_texts = reference.encode_image(pixels), reference.encode_text(tokens)
    head = {name: torch.from_numpy(value) for name, value in backbone.projections().items()}
    found_images = backbone.encode_image(pixels) @ head["image/weight"] + head.get("image/bias", 0)
    found_texts = backbone.encode_text(tokens) @ head["text/weight"]
    tolerance = {"rtol": 1e-4, "atol": 1e-5 * expected_images.abs().max().item()}
    torch.testing.assert_close(found_images, expected_images, **tolerance)
    torch.testing.assert_close(found_texts, expected_texts, **tolerance)
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.inference_mode():
        assert torch.equal(backbone.model.encode_image(pixels), reference.encode_image(pixels))


def test_features_times_projection_equal_clips_own_output(family, checkpoints):
    backbone = load_backbone(str(checkpoints[family]))
    require_contract(backbone, random_clip(family), images=5)
    assert ("image/bias" in backbone.projections()) == (family == "resnet")
    assert backbone.projections()["image/weight"].shape == ((256, 32) if family == "resnet" else (64, 32))


@pytest.mark.parametrize("name", ["ViT-B/32", "RN50"])
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
            other.token_embedding.weight[backbone.tokenize(CAPTIONS)[0][0, 1], 0] += 0.5
        else:
            other.text_projection[0, 0] += 0.5
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        require_contract(backbone, other, images=5)


def test_require_exact_accepts_the_features_and_refuses_others(family, checkpoints):
    backbone = load_backbone(str(checkpoints[family]))
    pixels = torch.randn(2, 3, 64, 64)
    features = backbone.encode_image(pixels)
    backbone.require_exact("image", inputs=pixels, features=features)
    off = features.clone()
    off[0, 0] += 0.01 * features.abs().max()
    with pytest.raises(BackboneError, match=r"image features of .* differ from clip's own output"):
        backbone.require_exact("image", inputs=pixels, features=off)
    tokens, _ = backbone.tokenize(CAPTIONS)
    backbone.require_exact("text", inputs=tokens, features=backbone.encode_text(tokens))
    with pytest.raises(BackboneError, match=r"text features of .* differ"):
        backbone.require_exact("text", inputs=tokens, features=torch.full_like(backbone.encode_text(tokens), torch.nan))


def test_a_torchscript_archive_loads_like_the_state_dict(family, checkpoints, tmp_path):
    model = random_clip(family)
    archive = tmp_path / "archive.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(1, 3, 64, 64), torch.zeros(1, 77, dtype=torch.long))
        torch.jit.trace(model, example, check_trace=False).save(str(archive))
    pixels = torch.randn(2, 3, 64, 64)
    found = load_backbone(str(archive))
    assert torch.equal(found.encode_image(pixels), load_backbone(str(checkpoints[family])).encode_image(pixels))
    assert found.weights_sha256 != load_backbone(str(checkpoints[family])).weights_sha256


def test_tokens_are_counted_before_truncation(checkpoints):
    backbone = load_backbone(str(checkpoints["resnet"]))
    captions = ["", "a dog", "dog " * 75, "dog " * 76, "dog " * 200]
    ids, counts = backbone.tokenize(captions)
    np.testing.assert_array_equal(counts, [2, 4, 77, 78, 202])
    assert ids.shape == (5, 77)
    assert (ids[2:, 76] == 49407).all()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(BackboneError, match=r"unknown model 'ViT-B/33'; expected one of RN50, .*, tiny-emoji, or"):
        load_backbone("ViT-B/33")


def pickled_code(path):
    """A file whose unpickling would run code; torch's own loader must refuse it."""

    class Evil:
        def __reduce__(self):
            return (open, (str(path.with_suffix(".owned")), "w"))

    torch.save({"visual.proj": Evil()}, path)


@pytest.mark.parametrize("kind", ["text", "empty", "truncated", "other tensors", "code"])
def test_a_file_that_is_no_clip_checkpoint_is_one_clear_line(kind, tmp_path, checkpoints):
    path = tmp_path / "bad.pt"
    whole = checkpoints["resnet"].read_bytes()
    writers = {
        "text": lambda: path.write_text("hello"),
        "empty": lambda: path.write_bytes(b""),
        "truncated": lambda: path.write_bytes(whole[: len(whole) // 2]),
        "other tensors": lambda: torch.save({"weight": torch.zeros(3)}, path),
        "code": lambda: pickled_code(path),
    }
    writers[kind]()
    with pytest.raises(BackboneError, match="is not a readable CLIP checkpoint") as caught:
        load_backbone(str(path))
    assert "\n" not in str(caught.value)
    assert not path.with_suffix(".owned").exists()


def test_without_network_the_error_says_what_to_fetch(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(BackboneError, match=r"cannot download the weights of RN50: no route.*Fetch https://.*RN50\.pt"):
        load_backbone("RN50", download_root=tmp_path)


def test_another_project_called_clip_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "clip", types.ModuleType("clip"))
    with pytest.raises(BackboneError, match=r"is another project, not OpenAI's; run: pip uninstall clip"):
        load_backbone("RN50")


def test_a_missing_clip_gives_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "clip", None)
    with pytest.raises(BackboneError, match=r"cannot be imported .* run: pip install clip-anytorch 'setuptools"):
        load_backbone("RN50")


WORDS = (
    "dog",
    "DOG's",
    "unbelievably",
    "3,000",
    "!!!",
    "don't",
    "a-b-c",
    "<|endoftext|>",
    "\x1b[1m",
    "\u00e9t\u00e9",
    "&amp;",
    "\ud55c\uad6d",
    "<b>",
)


def test_texts_too_long_for_clip_are_found_without_encoding_all_of_them():
    """Against clip's own tokens of every text, at and around the limit."""
    import clip

    generator = random.Random(0)
    texts = ["", " ", "dog " * 75, "dog " * 76, "x" * 75, "!" * 76, "0" * 75, "0" * 76, "&" * 80, "\u3042" * 26]
    for _ in range(2000):
        kept = WORDS if generator.random() < 0.5 else WORDS[:9]
        texts.append(" ".join(generator.choices(kept, k=generator.randrange(10, 60))))
    expected = [row for row, text in enumerate(texts) if len(clip.clip._tokenizer.encode(text)) + 2 > 77]
    reports = []
    assert find_too_long(texts, on_progress=reports.append).tolist() == expected
    assert 200 < len(expected) < 1800
    assert (reports[-1].phase, reports[-1].done, reports[-1].total) == ("captions", len(texts), len(texts))
