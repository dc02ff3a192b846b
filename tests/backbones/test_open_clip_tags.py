"""What is read from open_clip's files, against what open_clip itself says."""

import json
import subprocess
import sys

import pytest

from clipret.backbones.open_clip_tags import load_json, open_clip_folder, read_config, read_tags, widths_of

open_clip = pytest.importorskip("open_clip", reason="needs pip install '.[open-clip]'")


def test_every_tag_is_read_with_the_place_of_its_weights():
    tags = read_tags(open_clip_folder())
    assert set(tags) == set(open_clip.list_pretrained())
    for (model, tag), where in tags.items():
        about = open_clip.get_pretrained_cfg(model, tag)
        assert (where.repository, where.url) == (about["hf_hub"].rpartition("/")[0], about["url"])


def test_configs_are_those_of_open_clip():
    for model in ("ViT-B-32", "ViT-B-16-SigLIP2-384", "RN50x4", "coca_ViT-L-14"):
        assert read_config(open_clip_folder(), model) == open_clip.get_model_config(model)


@pytest.mark.parametrize(
    ("model", "widths"),
    [
        ("ViT-B-32", (224, 768, 512, 512)),
        ("ViT-L-14-336", (336, 1024, 768, 768)),
        ("RN50x4", (288, 2560, 640, 640)),
        ("ViT-B-16-SigLIP-384", (384, 768, 768, 768)),
        ("ViT-SO400M-14-SigLIP", (224, 1152, 1152, 1152)),
        # Its pooling by attention ends in the embedding's width.
        ("coca_ViT-L-14", (224, 768, 768, 768)),
        # The width of timm's trunk, and of Hugging Face's text towers, are not in the config.
        ("convnext_base", (224, None, 512, 512)),
        ("MobileCLIP-S1", (256, None, 512, 512)),
        ("xlm-roberta-base-ViT-B-32", (224, 768, None, 512)),
    ],
)
def test_widths_are_said_as_far_as_the_config_does(model, widths):
    read = widths_of(read_config(open_clip_folder(), model))
    assert tuple(read.values()) == widths
    assert list(read) == ["side", "image", "text", "embedding"]


@pytest.mark.ci
@pytest.mark.parametrize("model", ["ViT-B-32", "RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32"])
def test_widths_are_those_of_the_model(model):
    from clipret.backbones.open_clip import _image_slot

    made = open_clip.create_model(model, load_weights=False)
    widths, slot = widths_of(open_clip.get_model_config(model)), _image_slot(made.visual)
    assert widths["image"] == (slot.weight.shape[0] if slot else widths["embedding"])
    projection = getattr(made, "text", made).text_projection
    assert widths["text"] == getattr(projection, "in_features", None) or projection.shape[0]


def test_files_of_another_form_say_nothing(tmp_path):
    assert read_tags(tmp_path) == {}
    for text in ("_PRETRAINED = [1]", "_PRETRAINED = make()", "_PRETRAINED = {'a': b, **c}", "def", "x = 1", "\0"):
        (tmp_path / "pretrained.py").write_text(text)
        assert read_tags(tmp_path) == {}, text
    assert read_config(tmp_path, "ViT-B-32") == {}
    (tmp_path / "list.json").write_text(json.dumps([1]))
    assert load_json(tmp_path / "list.json") == {}


def test_a_tag_without_an_architecture_is_left_out_and_quick_gelu_has_two_names(tmp_path):
    (tmp_path / "pretrained.py").write_text(
        "_A = dict(one=_pcfg(hf_hub='org/a/', quick_gelu=True), two=_pcfg('http://x/a.pt'))\n"
        "_PRETRAINED = {'A': _A, 'B': dict(three=_pcfg(hf_hub='org/b/b.pth'))}\n"
    )
    (tmp_path / "model_configs").mkdir()
    for name in ("A", "A-quickgelu"):
        (tmp_path / "model_configs" / f"{name}.json").write_text("{}")
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    assert read_tags(tmp_path) == {
        ("A", "one"): ("org/a", names, ""),
        ("A-quickgelu", "one"): ("org/a", names, ""),
        ("A", "two"): ("", names, "http://x/a.pt"),
    }
    (tmp_path / "model_configs" / "B.json").write_text("{}")
    assert read_tags(tmp_path)["B", "three"] == ("org/b", ("b.safetensors", "b.pth"), "")


def test_nothing_is_imported():
    code = (
        "import sys\nfrom clipret.backbones.open_clip_tags import open_clip_folder, read_tags\n"
        "assert read_tags(open_clip_folder())\nassert not {'torch', 'open_clip'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
