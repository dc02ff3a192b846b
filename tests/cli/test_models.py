import csv
import io
import json

import pytest

from clipret import cli
from clipret.backbones import FAMILIES
from tests.helpers.hub_cache import write_repository


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*words):
        status = cli.main(["models", *words])
        output = capsys.readouterr()
        return status, output.out, output.err

    return call


def test_the_table_has_every_family_and_the_best_model_first(run):
    status, out, err = run()
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert all(any(line[:1] == [name] for line in lines) for name in FAMILIES)
    first = next(line for line in lines if line[:1] and line[0].startswith(("open_clip:ViT", "ViT", "RN")))
    assert first[:5] == ["open_clip:ViT-H-14-378-quickgelu/dfn5b", "55.6", "71.9", "82.0", "94.0"]
    assert max(map(len, out.splitlines())) <= 100


def test_words_family_and_cached_choose_models(run, tmp_path):
    pytest.importorskip("open_clip", reason="needs pip install '.[open-clip]'")
    write_repository(tmp_path / "hf" / "hub", "timm/ViT-B-16-SigLIP", {"open_clip_model.safetensors": b"w"})
    models = json.loads(run("SIGLIP", "384", "--json")[1])["models"]
    assert models
    assert all("siglip" in model["name"].lower() and "384" in model["name"] for model in models)
    names = [model["name"] for model in json.loads(run("--cached", "--json")[1])["models"]]
    assert names == ["open_clip:ViT-B-16-SigLIP/webli", "tiny-emoji"]
    result = json.loads(run("--cached", "--family", "openai", "--json")[1])
    assert [model["name"] for model in result["models"]] == ["tiny-emoji"]
    assert [family["name"] for family in result["families"]] == ["openai"]


def test_json_has_all_that_is_known_of_a_model(run, tmp_path):
    status, out, err = run("ViT-B/32", "--json")
    assert (status, err) == (0, "")
    result = json.loads(out)
    (model,) = [model for model in result["models"] if model["name"] == "ViT-B/32"]
    figures = model.pop("figures")
    assert model == {
        "name": "ViT-B/32",
        "family": "openai",
        "cached": None,
        "side": 224,
        "image": 768,
        "text": 512,
        "embedding": 512,
        "params": 151.28,
        "flops": 14.78,
        "remark": "",
    }
    assert figures["coco-karpathy-5k"]["t2i"] == {"R@1": 30.44, "R@5": 55.94, "R@10": 66.87}
    assert result["folders"] == {
        "openai": str(tmp_path / "home" / ".cache" / "clip"),
        "hub": str(tmp_path / "hf" / "hub"),
    }
    assert json.loads(run("ViT-B/32", "--format", "json")[1]) == json.loads(out)


def test_csv_has_a_row_a_model_with_all_figures(run):
    rows = list(csv.DictReader(io.StringIO(run("ViT-B/16", "--format", "csv")[1])))
    (row,) = [row for row in rows if row["model"] == "ViT-B/16"]
    assert (row["image"], row["Flickr t2i R@10 (percent)"], row["operations (billions)"]) == ("768", "91.92", "41.09")


@pytest.mark.parametrize("form", ["markdown", "latex", "html"])
def test_other_forms_are_of_the_same_tables(run, form):
    status, out, _ = run("ViT-L/14", "--format", form)
    assert status == 0
    assert all(word in out for word in ("ViT-L/14@336px", "37.1", "tiny-emoji"))


def test_what_there_is_not_is_one_line(run):
    assert run("no such model") == (
        2,
        "",
        "error: there is no model with 'no such model' in its name; clipret models shows all.\n",
    )
    assert run("--family", "clip")[2] == f"error: --family is 'clip'; expected one of: {', '.join(FAMILIES)}.\n"
