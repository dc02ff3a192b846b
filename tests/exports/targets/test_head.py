"""The target head: the file itself, and its reader in numpy."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipret import FeatureCache, TrainConfig, train
from clipret.config import ExportConfig
from clipret.errors import ExportError
from clipret.exports.checkpoints.stage import export
from clipret.exports.targets import head as target_head
from clipret.exports.targets import head_reader
from clipret.machine.tensors import open_tensors, write_tensors
from tests.conftest import contents, write_cache
from tests.helpers import own
from tests.helpers.exported import embedded, open_here, random_head, saved


@pytest.fixture
def here(monkeypatch) -> list[list[str]]:
    return open_here(monkeypatch)


def exported(cache: Path, head: Path, **changes) -> dict:
    config = ExportConfig(run=head, to="head", out=cache.parent / "out", cache=cache)
    return export(replace(config, **changes))


def reader_of(folder: Path):
    """Of the folder's own reader, as a user imports it."""
    spec = importlib.util.spec_from_file_location("copied_reader", folder / "head_reader.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read_head(folder / "head.safetensors")


HEADS = {
    "linear": {"kind": "linear"},
    "linear, images alone learned": {"kind": "linear", "sides": ("image",)},
    "adapter": {"kind": "adapter"},
    "adapter without its last relu": {"kind": "adapter", "relu": False, "ratio": 0.2},
    "adapter of texts alone": {"kind": "adapter", "sides": ("text",)},
    "adapter, ratio 1": {"kind": "adapter", "ratio": 1.0},
    "gated": {"kind": "gated"},
    "gated images alone": {"kind": "gated", "sides": ("image",)},
    "mlp": {"kind": "mlp"},
    "mlp of texts alone, one block": {"kind": "mlp", "sides": ("text",), "blocks": 1},
    "mlp, eight blocks": {"kind": "mlp", "blocks": 8},
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_the_reader_gives_the_embeddings_of_the_head(tmp_path, here, name, bias):
    cache = write_cache(tmp_path / "made.h5", contents(bias=bias))
    head = saved(random_head(cache, **HEADS[name]), cache)
    [way] = exported(cache, head)["verified"]
    assert (way["texts"], way["images"]) == (32, 16)
    assert way["difference"] < 1e-6
    embed = reader_of(tmp_path / "out")
    for side in ("image", "text"):
        features = np.asarray(getattr(FeatureCache(cache), f"{side}_features"), dtype=np.float32)
        np.testing.assert_allclose(embed(features, side), embedded(cache, head, side), atol=1e-6, rtol=0)


def test_rows_without_a_length_are_no_division_by_zero(tmp_path, cache_path, here):
    exported(cache_path, saved(random_head(cache_path), cache_path))
    embed = reader_of(tmp_path / "out")
    assert embed(np.zeros((2, 24), np.float32), "image").tolist() == np.zeros((2, 12)).tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["gated", "mlp"])
def test_large_features_do_not_overflow(tmp_path, cache_path, here, kind):
    exported(cache_path, saved(random_head(cache_path, kind=kind), cache_path))
    embed = reader_of(tmp_path / "out")
    for features in (np.full((2, 24), 500, np.float16), np.eye(2, 24) * 1e4, -np.eye(2, 24) * 1e4):
        np.testing.assert_allclose(np.linalg.norm(embed(features, "image"), axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "gated", "mlp"])
def test_a_bias_that_was_trained_is_read(tmp_path, cache_path, here, kind):
    config = TrainConfig(cache=cache_path, head=kind, bias=True, lr=0.01, epochs=2, keep="last", runs_dir=tmp_path)
    run = Path(train(config)["run"])
    export(ExportConfig(run=run, to="head", out=tmp_path / "out"))
    embed = reader_of(tmp_path / "out")
    for side in ("image", "text"):
        features = np.asarray(getattr(FeatureCache(cache_path), f"{side}_features"), dtype=np.float32)
        expected = embedded(cache_path, run / "head.safetensors", side)
        np.testing.assert_allclose(embed(features, side), expected, atol=1e-6, rtol=0)
    assert load_file(run / "head.safetensors")["text_bias"].abs().min() > 0


def test_the_file_is_the_run_s_byte_for_byte(tmp_path, cache_path, here):
    run = Path(train(TrainConfig(cache=cache_path, epochs=1, runs_dir=tmp_path / "runs"))["run"])
    result = export(ExportConfig(run=run, to="head", out=tmp_path / "out"))
    assert sorted(result["files"]) == ["README.md", "head.safetensors", "head_reader.py"]
    assert (tmp_path / "out/head.safetensors").read_bytes() == (run / "head.safetensors").read_bytes()
    assert json.loads((tmp_path / "out/clipret_export.json").read_text())["cached"]["difference"] == {}


def test_no_encoder_is_needed(tmp_path, cache_path, here, monkeypatch):
    """The cache's model is called `made`, and no such file was ever there."""
    assert FeatureCache(cache_path).about["model"] == "made"
    result = exported(cache_path, saved(random_head(cache_path), cache_path))
    assert result["images_missing"] is None


@pytest.mark.ci
def test_it_is_verified_in_a_process_of_its_own(tmp_path, cache_path):
    [way] = exported(cache_path, saved(random_head(cache_path, kind="adapter"), cache_path))["verified"]
    assert way["opened"]
    assert way["difference"] < 1e-6


WRONG = {
    "the ratio": ("adapter", 'float(about["ratio"])', "0.5"),
    "the relu": ("adapter", 'np.maximum(rows @ own["down"], 0)', '(rows @ own["down"])'),
    "the sides": ("adapter", 'own["up"]', 'tensors["text_up"]'),
    "the gate": ("gated", 'silu(rows @ own["gate"])', '(rows @ own["gate"])'),
    "the norm": ("mlp", "normed /=", "_ ="),
    "the shift": ("mlp", 'own[f"shift_{block}"]', "0"),
    "the number of blocks": ("mlp", "block += 1", "break"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_reader_with_a_fault_fails(tmp_path, cache_path, here, monkeypatch, fault):
    source = Path(head_reader.__file__).read_text()
    kind, right, wrong = WRONG[fault]
    assert right in source
    monkeypatch.setattr(target_head.inspect, "getsource", lambda module: source.replace(right, wrong))
    head = saved(random_head(cache_path, kind=kind), cache_path)
    with pytest.raises(ExportError, match="numpy gives other embeddings than clipret: they differ by"):
        exported(cache_path, head)
    assert not (tmp_path / "out").exists()


def test_an_own_head_is_refused_with_the_targets_that_can(tmp_path, cache_path):
    words = own.write(tmp_path)
    config = TrainConfig(cache=cache_path, head=words["head"], epochs=1, batch_size=8, runs_dir=tmp_path / "runs")
    run = Path(train(config)["run"])
    with pytest.raises(ExportError) as caught:
        exported(cache_path, run)
    assert str(caught.value).startswith(
        f"{run} cannot be exported to head: its reader in numpy is for heads of kind linear or adapter or gated or "
        f"mlp, and this is of kind own; the other targets need its encoder, which is not at hand."
    )


def test_tensors_that_numpy_does_not_have_are_refused(tmp_path, cache_path):
    path = saved(random_head(cache_path), cache_path)
    file = open_tensors(path)
    metadata = {name: text for name, text in file.metadata.items() if name != "sha256"}
    tensors = {name: value.bfloat16() if value.dtype == torch.float32 else value for name, value in file.read().items()}
    write_tensors(path, tensors, metadata=metadata)
    with pytest.raises(ExportError, match="its tensors are BF16, which numpy does not have"):
        exported(cache_path, path)


def test_halves_are_read(tmp_path, cache_path, here):
    path = saved(random_head(cache_path), cache_path)
    file = open_tensors(path)
    metadata = {name: text for name, text in file.metadata.items() if name != "sha256"}
    tensors = {name: value.half() if value.dtype == torch.float32 else value for name, value in file.read().items()}
    write_tensors(path, tensors, metadata=metadata)
    assert exported(cache_path, path)["verified"][0]["difference"] < 1e-6


def test_the_reader_is_short_and_needs_numpy_alone():
    lines = [line for line in Path(head_reader.__file__).read_text().splitlines() if line.strip()]
    assert len(lines) <= 34
    assert [line for line in lines if line.startswith(("import", "from"))] == [
        "import json",
        "from pathlib import Path",
        "import numpy as np",
    ]
