"""Folders of transformers' models: what is read of them, and what is refused."""

import os
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipret.backbones import load_backbone
from clipret.backbones.loading import quiet
from clipret.errors import BackboneError
from tests.helpers.hf_models import edit_json
from tests.helpers.hf_reference import CAPTIONS, inputs_of, library_of, message_of

CLASSES = "CLIPModel, MetaClip2Model, SiglipModel, AltCLIPModel, ChineseCLIPModel, VisionTextDualEncoderModel"


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def read_weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def write_weights(folder, weights) -> None:
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_weights_that_are_missing_are_never_started_at_random(hf_changed):
    folder = hf_changed("metaclip2")
    weights = read_weights(folder)
    write_weights(folder, {name: tensor for name, tensor in weights.items() if name != "text_projection.weight"})
    assert message_of(folder) == (
        f"the weights of hf:{folder} lack 1 of the tensors of a MetaClip2Model, such as text_projection.weight; "
        f"transformers would start them at random. Expected the files of a whole MetaClip2Model."
    )
    write_weights(folder, weights | {"text_projection.weight": torch.zeros(10, 64)})
    assert message_of(folder) == (
        f"the weights of hf:{folder} lack 1 of the tensors of a MetaClip2Model of the sizes that config.json says, "
        f"such as text_projection.weight; transformers would start them at random. Expected the files of a whole "
        f"MetaClip2Model."
    )


def test_a_pickle_is_read_where_there_is_nothing_else_and_nothing_in_it_is_run(hf_changed, tmp_path):
    folder = hf_changed("metaclip2")
    expected = load_backbone(f"hf:{folder}")
    path = folder / "pytorch_model.bin"
    torch.save({"x": RunsCode(tmp_path / "ran")}, path)
    assert load_backbone(f"hf:{folder}").weights_sha256 == expected.weights_sha256
    weights = read_weights(folder)
    (folder / "model.safetensors").unlink()
    assert message_of(folder) == (
        f"the weights of hf:{folder} are a pickle that holds more than tensors, which clipret does not run; expected "
        f"safetensors, or a pickle of a state dict."
    )
    assert not (tmp_path / "ran").exists()
    torch.save(weights, path)
    inputs = inputs_of(expected, CAPTIONS)
    assert torch.equal(load_backbone(f"hf:{folder}").encode_text(inputs["text"]), expected.encode_text(inputs["text"]))


def test_weights_in_parts_are_read_and_all_of_them_count(hf_changed):
    folder = hf_changed("dual")
    whole = load_backbone(f"hf:{folder}")
    with quiet():
        model = library_of(folder)[0]
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="100KB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 1
    backbone = load_backbone(f"hf:{folder}")
    inputs = inputs_of(whole, CAPTIONS)
    assert torch.equal(backbone.encode_text(inputs["text"]), whole.encode_text(inputs["text"]))
    weights = load_file(parts[-1])
    save_file({name: tensor + 1 for name, tensor in weights.items()}, parts[-1], {"format": "pt"})
    assert load_backbone(f"hf:{folder}").weights_sha256 != backbone.weights_sha256
    parts[-1].unlink()
    assert message_of(folder) == (
        f"{folder}/model.safetensors.index.json lists {parts[-1].name}, which {folder} lacks; copy all parts there."
    )


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, "BertModel"),
        ({"architectures": ["SiglipForImageClassification"]}, "SiglipForImageClassification"),
        ({"model_type": "blip", "architectures": None}, "blip"),
    ],
)
def test_a_class_that_is_not_supported_is_refused(hf_changed, fields, what):
    folder = hf_changed("siglip", **fields)
    assert message_of(folder) == (
        f"{folder}/config.json describes a model that clipret does not support, {what}; expected one of {CLASSES}."
    )


def test_siglip_2_of_varying_sizes_is_refused(hf_changed):
    folder = hf_changed("siglip", model_type="siglip2", architectures=["Siglip2Model"])
    assert message_of(folder) == (
        f"{folder} holds a Siglip2Model, which takes a varying number of patches (NaFlex); clipret takes images of one "
        f"size: use a fixed-size checkpoint of SigLIP 2, such as google/siglip2-base-patch16-224."
    )


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (
            "config.json",
            "{0} has no config.json; expected a folder as transformers saves a model, with config.json and "
            "model.safetensors, and what its side needs: tokenizer.json, preprocessor_config.json.",
        ),
        ("model.safetensors", "{0} has no weights; expected model.safetensors beside config.json."),
        ("tokenizer.json", "{0} has no tokenizer; expected tokenizer.json, or the older files of one."),
        ("preprocessor_config.json", "{0} does not say how images are prepared; expected preprocessor_config.json."),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(hf_changed, missing, message):
    folder = hf_changed("siglip")
    (folder / missing).unlink()
    assert message_of(folder) == message.format(folder)


def test_a_damaged_file_is_said(hf_changed):
    folder = hf_changed("siglip")
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    assert message_of(folder) == (
        f"transformers cannot load hf:{folder}: Error while deserializing header: header too large."
    )
    (folder / "config.json").write_text("{")
    assert message_of(folder).startswith(f"cannot read {folder}/config.json: it is not JSON: ")


def test_code_in_a_folder_is_never_run(hf_changed, tmp_path):
    folder = hf_changed("siglip", auto_map={"AutoModel": "code.My", "AutoConfig": "code.My"})
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.My", None]})
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    load_backbone(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()


def test_a_model_of_the_hub_is_taken_from_its_cache_with_its_revision(hf_folders, tmp_path):
    revision, repository = "ab" * 20, tmp_path / "models--some--model"
    shutil.copytree(hf_folders("dual"), repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    backbone = load_backbone("hf:some/model", download_root=tmp_path)
    assert backbone.details["revision"] == revision
    assert (backbone.name, backbone.library) == ("hf:some/model", f"transformers {version('transformers')}")
    assert backbone.weights_sha256 == load_backbone(f"hf:{hf_folders('dual')}").weights_sha256


def test_without_a_network_it_is_said_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError) as caught:
        load_backbone("hf:some/model", download_root=tmp_path)
    assert str(caught.value).startswith("cannot reach the Hugging Face hub for some/model (")
    assert "hf download some/model --local-dir FOLDER; copy FOLDER here and give it with --model hf:FOLDER." in str(
        caught.value
    )
    with pytest.raises(BackboneError) as caught:
        load_backbone(f"hf:{tmp_path}/none")
    assert str(caught.value) == (
        f"there is no folder {tmp_path}/none; expected the folder of a model, or its name on the hub."
    )
    with pytest.raises(BackboneError) as caught:
        load_backbone("hf:a/b/c")
    assert str(caught.value) == (
        f"'a/b/c' is neither a folder, seen from {Path.cwd()}, nor a repository of the hub; expected FOLDER or "
        f"ORG/NAME."
    )
