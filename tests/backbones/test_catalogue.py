"""The list of encoders: what is there, what is known of it, and in which order."""

import json

import pytest

from clipret.backbones import FAMILIES, Family, catalogue
from clipret.backbones.catalogue import list_models
from clipret.config.models import ModelsConfig
from clipret.errors import UsageError
from clipret.evaluation.reproduction.published import published_models, zero_shot_figures
from tests.helpers.hub_cache import write_repository

PUBLISHED = zero_shot_figures()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's cache of a machine that has fetched nothing yet."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "hf" / "hub"


@pytest.fixture
def transformers(monkeypatch):
    """A row of the family whose models are folders of the hub."""
    monkeypatch.setitem(FAMILIES, "hf", Family("nowhere", prefix="hf:", names="hf:ORG/NAME", extra="hf"))


def listed(*words, published=PUBLISHED, **settings):
    result = list_models(ModelsConfig(words=words, **settings), published=published)
    return {model["name"]: model for model in result["models"]}


def test_openais_models_have_their_widths_and_their_weights_if_they_are_there(hub, tmp_path):
    weights = tmp_path / "home" / ".cache" / "clip"
    weights.mkdir(parents=True)
    (weights / "ViT-L-14-336px.pt").write_bytes(b"weights")
    models = listed(family="openai")
    assert set(models) == {*(name for name, model in published_models().items() if model.sha256), "tiny-emoji"}
    model = models["ViT-L/14@336px"]
    assert model["cached"] == str(weights / "ViT-L-14-336px.pt")
    assert [model[name] for name in ("side", "image", "text", "embedding")] == [336, 1024, 768, 768]
    assert (model["params"], model["figures"]["coco-karpathy-5k"]["t2i"]["R@1"]) == (427.94, 37.09)
    assert [name for name, model in models.items() if model["cached"]] == ["ViT-L/14@336px", "tiny-emoji"]


def test_files_and_sides_of_openais_models_are_the_published_ones(hub, tmp_path):
    for model in published_models().values():
        if model.sha256:
            (tmp_path / model.file).touch()
    models = listed(family="openai", download_root=tmp_path)
    for name, model in published_models().items():
        if model.sha256:
            assert (models[name]["cached"], models[name]["side"]) == (str(tmp_path / model.file), model.side)


def test_widths_of_openais_models_are_those_of_the_weights():
    pytest.importorskip("open_clip", reason="needs pip install '.[open-clip]'")
    models = listed()
    for name in published_models():
        twin = f"open_clip:{name.replace('/', '-').replace('@336px', '-336')}/openai"
        if twin in models:
            for width in ("side", "image", "text", "embedding"):
                assert models[name][width] == models[twin][width], (name, width)


def test_the_bundled_model_is_always_there(hub):
    from clipret.backbones import load_backbone

    model, backbone = listed("tiny")["tiny-emoji"], load_backbone("tiny-emoji")
    assert model["cached"].endswith("tiny-emoji.pt")
    assert {side: model[side] for side in ("image", "text")} == backbone.widths
    assert model["embedding"] == backbone.projections()["text/weight"].shape[1]
    assert backbone.preprocessing == f"clip {model['side']} px"


def test_tags_of_open_clip_are_cached_where_their_file_is(hub):
    pytest.importorskip("open_clip", reason="needs pip install '.[open-clip]'")
    snapshot = write_repository(hub, "timm/ViT-B-16-SigLIP", {"open_clip_model.safetensors": b"w", "README.md": b""})
    write_repository(hub, "timm/ViT-L-16-SigLIP-256", {"open_clip_config.json": b"{}"})
    models = listed(family="open_clip")
    assert len(models) > 150
    model = models["open_clip:ViT-B-16-SigLIP/webli"]
    assert model["cached"] == str(snapshot / "open_clip_model.safetensors")
    assert model["figures"]["flickr30k-karpathy-1k"]["t2i"]["R@1"] == 74.68
    assert models["open_clip:ViT-L-16-SigLIP-256/webli"]["cached"] is None
    assert set(listed(cached=True)) == {"open_clip:ViT-B-16-SigLIP/webli", "tiny-emoji"}


def test_another_repository_in_open_clips_form_is_listed_by_its_name(hub):
    config = {"model_cfg": {"embed_dim": 32, "vision_cfg": {"width": 48, "image_size": 96}, "text_cfg": {"width": 40}}}
    files = {"open_clip_config.json": json.dumps(config).encode(), "open_clip_model.safetensors": b"w"}
    write_repository(hub, "me/mine", files)
    (model,) = listed("me/mine").values()
    assert (model["name"], model["family"], model["figures"]) == ("open_clip:hf-hub:me/mine", "open_clip", {})
    assert [model[name] for name in ("side", "image", "text", "embedding")] == [96, 48, 40, 32]


@pytest.mark.parametrize(
    "config",
    [
        {"model_cfg": {"embed_dim": "wide", "vision_cfg": [1], "text_cfg": None}},
        {
            "model_cfg": {
                "embed_dim": True,
                "vision_cfg": {"layers": [1], "width": "w", "image_size": []},
                "text_cfg": 1,
            }
        },
        {"model_cfg": 7},
    ],
)
def test_what_a_config_says_in_another_form_is_unknown(hub, transformers, config):
    files = {"open_clip_config.json": json.dumps(config).encode(), "open_clip_model.safetensors": b"w"}
    other = {"model_type": "clip", "vision_config": 3, "text_config": {"hidden_size": "x"}, "projection_dim": []}
    write_repository(hub, "evil/\x1b[31mred", {**files, "config.json": json.dumps(other).encode()})
    models = listed("evil")
    assert set(models) == {"open_clip:hf-hub:evil/\x1b[31mred", "hf:evil/\x1b[31mred"}
    assert all(models[name]["embedding"] is None for name in models)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{" * 1000, b"\xff", b'{"model_type": ["clip"]}'])
def test_a_config_that_cannot_be_read_is_of_no_model(hub, transformers, content):
    write_repository(hub, "me/odd", {"open_clip_config.json": content[:3], "config.json": content})
    with pytest.raises(UsageError):
        listed("me/odd")


def test_without_open_clip_its_published_models_are_listed_all_the_same(hub, monkeypatch):
    monkeypatch.setattr(catalogue, "open_clip_folder", lambda: None)
    models = listed(family="open_clip")
    assert "open_clip:ViT-H-14-378-quickgelu/dfn5b" in models
    assert not any("hf-hub" in name for name in models)
    model = models["open_clip:ViT-B-16-SigLIP/webli"]
    assert (model["image"], model["cached"], model["params"]) == (None, None, 203.16)


def test_models_of_transformers_are_those_cached_and_those_with_figures(hub, transformers):
    config = {"model_type": "siglip", "vision_config": {"hidden_size": 48, "image_size": 96}, "text_config": {}}
    write_repository(hub, "me/siglip", {"config.json": json.dumps(config).encode(), "model.safetensors": b"w"})
    write_repository(hub, "me/bert", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"w"})
    write_repository(hub, "me/broken", {"config.json": b"{"})
    models = listed(family="hf")
    assert not {"hf:me/bert", "hf:me/broken"} & set(models)
    mine = models["hf:me/siglip"]
    assert [mine[name] for name in ("side", "image", "text", "embedding")] == [96, 48, None, 48]
    assert mine["cached"].endswith("model.safetensors")
    assert models["hf:openai/clip-vit-base-patch32"]["figures"] == PUBLISHED["ViT-B/32"]["figures"]


def test_the_best_come_first_and_those_without_figures_last_by_name(hub):
    figures = {"coco-karpathy-5k": {"t2i": {"R@1": 90.0}}}
    published = {"RN50": {"params": 1.0, "flops": 1.0, "figures": figures, "remark": "so"}}
    names = list(listed(family="openai", published=published))
    assert names[:2] == ["RN50", "RN101"]
    assert names[1:] == sorted(names[1:])
    values = [model["figures"]["coco-karpathy-5k"]["t2i"]["R@1"] for model in listed().values() if model["figures"]]
    assert values == sorted(values, reverse=True)


def test_all_words_have_to_be_in_the_name(hub):
    assert list(listed("vit-l", "@336")) == ["ViT-L/14@336px"]


def test_families_say_what_is_installed_and_what_installs_it(hub, monkeypatch):
    monkeypatch.setitem(FAMILIES, "far", Family("nowhere", "far:", "far:NAME", needs=("no-such-package",), extra="far"))
    families = {row["name"]: row for row in list_models(ModelsConfig(), published={})["families"]}
    assert (families["openai"]["installed"], families["openai"]["models"], families["openai"]["cached"]) == (
        True,
        10,
        1,
    )
    assert families["far"] == {
        "name": "far",
        "names": "far:NAME",
        "installed": False,
        "packages": [{"name": "no-such-package", "version": None, "extra": "far"}],
        "models": 0,
        "cached": 0,
    }
    assert [row["name"] for row in list_models(ModelsConfig(family="openai"), published={})["families"]] == ["openai"]


def test_packages_of_pairs_have_their_own_extras(hub):
    (family,) = [row for row in list_models(ModelsConfig(), published={})["families"] if row["name"] == "pair"]
    assert {package["name"]: package["extra"] for package in family["packages"]} == {
        "timm": "timm",
        "transformers": "hf",
        "sentence-transformers": "hf",
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "clip"}, f"--family is 'clip'; expected one of: {', '.join(FAMILIES)}."),
        (
            {"family": "openai", "words": ("siglip", "2"), "cached": True},
            "there is no model of family openai and with 'siglip 2' in its name and whose weights are on this machine; "
            "clipret models shows all.",
        ),
        ({"format": "pdf"}, "--format is 'pdf'; expected one of: table, markdown, latex, csv, html, json."),
    ],
)
def test_what_there_is_not_is_said_in_one_line(hub, settings, message):
    with pytest.raises(UsageError) as caught:
        list_models(ModelsConfig(**settings), published={})
    assert str(caught.value) == message
