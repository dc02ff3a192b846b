"""Names of pairs of encoders, and what of them is refused, each in one line."""

import importlib
import json
import os
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipret.backbones import family_of, load_backbone, load_tokenizer, packages
from clipret.backbones.pair import LIBRARIES, split_name
from clipret.errors import BackboneError
from tests.helpers.pair_models import image_features, text_features


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("pair:timm/vit_small+st/mini", {"image": ("timm", "vit_small"), "text": ("st", "mini")}),
        ("pair:timm:vit+st:org/mini", {"image": ("timm", "vit"), "text": ("st", "org/mini")}),
        ("pair:hf/org/dino+hf/org/bert", {"image": ("hf", "org/dino"), "text": ("hf", "org/bert")}),
        ("pair:hf:org/dino+hf:org/bert", {"image": ("hf", "org/dino"), "text": ("hf", "org/bert")}),
        ("pair:timm//a/b+c/d+st//e/f+g", {"image": ("timm", "/a/b+c/d"), "text": ("st", "/e/f+g")}),
        ("pair:timm/../a+st/./b", {"image": ("timm", "../a"), "text": ("st", "./b")}),
    ],
)
def test_a_name_is_divided_at_the_plus_before_a_library(name, parts):
    assert split_name(name) == parts
    assert family_of(name).prefix == "pair:"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pair:timm/vit", "the text encoder is ''; expected pair:IMAGE+TEXT with text encoder hf/ORG/NAME or st/"),
        ("pair:", "the image encoder is ''; expected pair:IMAGE+TEXT with image encoder timm/"),
        ("pair:vit+st/mini", "the image encoder is 'vit'; expected "),
        ("pair:timm/+st/mini", "the image encoder is 'timm/'; expected "),
        ("pair:st/mini+timm/vit", "the image encoder is 'st/mini'; expected "),
        ("pair:timm/vit+bert/x", "the text encoder is 'bert/x'; expected "),
        ("pair:timm/a+st/b+st/c", "can be divided at more than one +; rename the folder whose name has '+st/' in it."),
    ],
)
def test_a_name_of_another_form_is_refused(name, message):
    with pytest.raises(BackboneError) as caught:
        load_backbone(name)
    assert re.match(rf"--model {re.escape(name)}:? {re.escape(message)}", str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("timm", "pair:timm/vit+hf/bert", "timm"),
        ("sentence-transformers", "pair:hf/dino+st/mini", "hf"),
        ("transformers", "pair:hf/dino+st/mini", "hf"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(package, name, extra, monkeypatch):
    version = packages.version_of
    monkeypatch.setattr(packages, "version_of", lambda other: None if other == package else version(other))
    for load in (load_backbone, load_tokenizer):
        with pytest.raises(BackboneError) as caught:
            load(name)
        assert str(caught.value) == f"--model {name} needs {package}; install with: pip install 'clipret[{extra}]'"


def test_every_library_of_the_table_has_what_its_row_says():
    for row in LIBRARIES.values():
        module = importlib.import_module(row.module)
        assert all(callable(getattr(module, f"load_{side}")) for side in row.sides)
        assert hasattr(module, "load_tokenizer") == ("text" in row.sides)


def refused(name):
    with pytest.raises(BackboneError) as caught:
        load_backbone(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_folder(pair_models, kind, folder):
    """The name of a pair with this folder for one of its halves."""
    if kind.startswith("timm"):
        return f"pair:timm/{folder}+st/{pair_models['minilm']}"
    if kind.startswith("hf"):
        return f"pair:hf/{folder}+st/{pair_models['minilm']}"
    return f"pair:timm/{pair_models['timm_dinov2']}+{'st' if kind.startswith('minilm') else 'hf'}/{folder}"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("timm_dinov2", r"timm cannot load {folder}: Error\(s\) in loading state_dict .* Missing key"),
        ("hf_dinov2", "the weights of {folder} lack 1 of the tensors of a Dinov2Model, such as "),
        ("bert", r"the weights of {folder} lack 1 of the tensors of a BertModel, such as encoder\.layer\.1\."),
        ("minilm", r"the weights of {folder} lack 1 of the tensors of a BertModel, such as encoder\.layer\.1\."),
    ],
)
def test_weights_that_are_missing_are_no_random_numbers(pair_models, tmp_path, kind, words):
    folder = shutil.copytree(pair_models[kind], tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "layer.1" in name or "blocks.1" in name)
    del tensors[gone]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    message = refused(with_folder(pair_models, kind, folder))
    assert re.match(words.format(folder=re.escape(str(folder))), message)


@pytest.mark.parametrize("kind", ["timm_dinov2", "hf_dinov2", "bert", "minilm"])
def test_a_folder_without_weights_is_refused(pair_models, tmp_path, kind):
    folder = shutil.copytree(pair_models[kind], tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    message = refused(with_folder(pair_models, kind, folder))
    assert message == f"{folder} has no weights; expected model.safetensors beside config.json."


@pytest.mark.parametrize(
    ("kind", "file", "words"),
    [
        ("timm_dinov2", "config.json", "has no config.json; expected a folder as timm saves it for the hub"),
        ("hf_dinov2", "config.json", "has no config.json; expected a folder as transformers saves a model"),
        (
            "hf_dinov2",
            "preprocessor_config.json",
            "does not say how images are prepared; expected preproc",
        ),
        ("minilm", "modules.json", "has no modules.json; expected a folder as sentence-transformers saves it. A text"),
    ],
)
def test_a_folder_that_lacks_a_description_is_refused(pair_models, tmp_path, kind, file, words):
    folder = shutil.copytree(pair_models[kind], tmp_path / "copy")
    (folder / file).unlink()
    assert words in refused(with_folder(pair_models, kind, folder))


class Payload:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


@pytest.mark.parametrize("kind", ["timm_dinov2", "hf_dinov2", "bert", "minilm"])
def test_a_pickle_is_read_as_numbers_alone(pair_models, tmp_path, kind):
    folder = shutil.copytree(pair_models[kind], tmp_path / "copy")
    name = with_folder(pair_models, kind, folder)
    before = load_backbone(name)
    tensors = load_file(folder / "model.safetensors")
    # Beside safetensors a pickle is not even opened.
    torch.save({**tensors, "x": Payload(tmp_path / "ran")}, folder / "pytorch_model.bin")
    load_backbone(name)
    (folder / "model.safetensors").unlink()
    assert "holds more than tensors, which clipret does not run" in refused(name)
    assert not (tmp_path / "ran").exists()
    torch.save(tensors, folder / "pytorch_model.bin")
    after = load_backbone(name)
    assert torch.equal(text_features(after), text_features(before))
    assert torch.equal(image_features(after), image_features(before))
    assert after.weights_sha256 != before.weights_sha256


def test_code_of_other_people_is_refused_before_it_is_imported(pair_models, tmp_path):
    folder = shutil.copytree(pair_models["minilm"], tmp_path / "copy")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "custom_code.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "custom_code.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    assert refused(with_folder(pair_models, "minilm", folder)) == (
        f"{folder}/modules.json names custom_code.Pooling, code that is not sentence-transformers' own and is not run; "
        f"take a model without such code."
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["hf_dinov2", "bert"])
def test_code_that_a_config_names_is_not_run(pair_models, tmp_path, kind):
    folder = shutil.copytree(pair_models[kind], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    assert "transformers cannot load" in refused(with_folder(pair_models, kind, folder))
    assert not (tmp_path / "ran").exists()


def test_an_encoder_of_the_other_side_is_refused(pair_models, tmp_path):
    both = shutil.copytree(pair_models["hf_dinov2"], tmp_path / "bert")
    for name in ("config.json", "model.safetensors"):
        shutil.copy(pair_models["bert"] / name, both / name)
    message = refused(f"pair:hf/{both}+st/{pair_models['minilm']}")
    assert message == f"{both} is a BertModel, which is no encoder of images; expected such as DINOv2."
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pair_models["bert"] / name, both / name)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(pair_models["hf_dinov2"] / name, both / name)
    message = refused(f"pair:timm/{pair_models['timm_dinov2']}+hf/{both}")
    assert message == f"{both} is a Dinov2Model, which is no encoder of text; expected such as BERT."


def test_a_model_of_both_sides_is_refused(pair_models, tmp_path):
    from transformers import CLIPConfig

    folder = shutil.copytree(pair_models["hf_dinov2"], tmp_path / "clip")
    CLIPConfig().save_pretrained(folder)
    message = refused(f"pair:hf/{folder}+st/{pair_models['minilm']}")
    assert message == f"{folder} is a clip, a model of images and text together; take an encoder of one of them."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"do_center_crop": False}, r"makes images of 50 x 32 pixels .*; its model takes squares of one size\.$"),
        ({"rescale_factor": 1 / 127.5}, r"multiplies pixels by 0\.00784\d*; clipret supports 1/255 only"),
        ({"do_rescale": False}, r"multiplies pixels by 1; clipret supports 1/255 only"),
    ],
)
def test_a_processing_that_cannot_be_repeated_is_refused(pair_models, tmp_path, changes, words):
    folder = shutil.copytree(pair_models["hf_dinov2"], tmp_path / "copy")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    message = refused(f"pair:hf/{folder}+st/{pair_models['minilm']}")
    assert re.match(rf"the preprocessing of {re.escape(str(folder))} {words}", message)


def test_a_name_that_timm_does_not_have_is_refused_with_those_near_it(pair_models):
    message = refused(f"pair:timm/vit_smal_patch14_dinov2+st/{pair_models['minilm']}")
    assert re.match(
        r"timm has no model 'vit_smal_patch14_dinov2', and there is no such folder; near it: .*vit_small", message
    )
    message = refused(f"pair:timm/vit_small_patch14_dinov2.gone+st/{pair_models['minilm']}")
    assert "vit_small_patch14_dinov2.lvd142m" in message


@pytest.mark.parametrize("part", ["timm/{}", "hf/{}"])
def test_a_folder_that_is_not_there_is_refused(pair_models, tmp_path, part):
    message = refused(f"pair:{part.format(tmp_path / 'gone')}+st/{pair_models['minilm']}")
    assert message == f"there is no folder {tmp_path}/gone; expected the folder of a model, or its name on the hub."


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("timm/vit_small_patch14_dinov2+st/{st}", "timm/vit_small_patch14_dinov2.lvd142m"),
        ("timm/org/vit+st/{st}", "org/vit"),
        ("hf/facebook/dinov2-small+st/{st}", "facebook/dinov2-small"),
        ("timm/{timm}+st/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("timm/{timm}+st/intfloat/e5-small-v2", "intfloat/e5-small-v2"),
        ("timm/{timm}+hf/google-bert/bert-base-uncased", "google-bert/bert-base-uncased"),
    ],
)
def test_names_of_the_hub_are_fetched_from_it(pair_models, monkeypatch, name, repository):
    asked = []

    def fetch(name, **settings):
        asked.append(name)
        raise BackboneError("no network")

    monkeypatch.setattr("clipret.backbones.hub.repository_folder", fetch)
    folders = {"st": pair_models["minilm"], "timm": pair_models["timm_dinov2"]}
    assert refused(f"pair:{name.format(**folders)}") == "no network"
    assert asked == [repository]


def test_the_revision_on_the_hub_is_recorded(pair_models, monkeypatch):
    folders = {
        "timm/vit_small_patch14_dinov2.lvd142m": pair_models["timm_dinov2"],
        "sentence-transformers/mini": pair_models["minilm"],
    }
    monkeypatch.setattr("clipret.backbones.hub.repository_folder", lambda name, **settings: (folders[name], "abc123"))
    # The architecture of that name is larger than the weights here: only that of the folder fits.
    message = refused("pair:timm/vit_small_patch14_dinov2+st/mini")
    assert message.startswith("timm cannot load vit_small_patch14_dinov2: ")
    folders["org/vit"] = pair_models["timm_dinov2"]
    details = load_backbone("pair:timm/org/vit+st/mini").details
    assert (details["image_revision"], details["text_revision"]) == ("abc123", "abc123")
