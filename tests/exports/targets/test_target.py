"""A target is one file and one row."""

import json

import pytest
import torch
from safetensors.torch import load_file

from clipret import ExportConfig, export
from clipret.cli.exports import target_help
from clipret.errors import ExportError, UsageError
from clipret.exports import TARGETS, TargetRow
from clipret.exports.checkpoints.stage import load_target
from clipret.heads.files import load_scalars
from tests.helpers import tensors_target
from tests.helpers.export_sources import linear_head, source_of, verified
from tests.helpers.exported import open_here
from tests.helpers.exported_runs import extracted_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return extracted_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def tensors(monkeypatch):
    """The row that the recipe asks for."""
    monkeypatch.setitem(TARGETS, "tensors", TargetRow(tensors_target.__name__, help="clip's weights as safetensors"))


@pytest.mark.ci
@pytest.mark.usefixtures("tensors")
def test_a_row_is_all_that_a_target_in_a_file_needs(run, tmp_path):
    assert target_help().endswith("; tensors, clip's weights as safetensors")
    result = export(ExportConfig(run=run, to="tensors", out=tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("README.md", "clip.safetensors", "clipret_export.json"),
    }
    (way,) = result["verified"]
    assert (way["way"], way["opened"], way["texts"], way["images"]) == ("safetensors", True, 32, 16)
    assert 0 < way["difference"] < 1e-6
    weights = load_file(tmp_path / "out/clip.safetensors")
    scalars = load_scalars(run / "head.safetensors")
    assert weights["logit_scale"] == torch.tensor(scalars["log_scale"])
    assert json.loads((tmp_path / "out/clipret_export.json").read_text())["to"] == "tensors"


@pytest.mark.ci
@pytest.mark.usefixtures("tensors")
def test_what_it_writes_wrong_is_found(run, tmp_path, monkeypatch):
    open_here(monkeypatch)

    def write(source, folder):
        from safetensors.torch import load_file, save_file

        tensors_target.write(source, folder)
        weights = load_file(folder / tensors_target.FILE)
        save_file(weights | {"text_projection": weights["text_projection"].flip(1)}, folder / tensors_target.FILE)

    broken = type(tensors_target.TARGET)(refusal=lambda source: None, write=write, ways=tensors_target.TARGET.ways)
    monkeypatch.setattr(tensors_target, "TARGET", broken)
    with pytest.raises(ExportError, match="safetensors gives other embeddings than clipret: they differ by "):
        export(ExportConfig(run=run, to="tensors", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_target_that_no_row_knows_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="--to is 'tensors'"):
        export(ExportConfig(run=tmp_path, to="tensors", out=tmp_path / "out"))


@pytest.mark.parametrize("name", TARGETS)
def test_what_opens_a_folder_first_is_asked_for_before_it_is_written(name):
    """Otherwise a folder would bear its name that nothing opened; the core has torch, clip and numpy."""
    first, *_ = load_target(name).ways.values()
    needed = TARGETS[name].package or ()
    assert first.needs in {"clip", "numpy", *((needed,) if isinstance(needed, str) else needed)}
    assert bool(TARGETS[name].extra) is bool(needed)


@pytest.mark.ci
@pytest.mark.parametrize("target", ["hf", "open_clip", "sentence-transformers"])
def test_a_process_of_its_own_opens_the_folder(encoder, tmp_path, target):
    """The other tests of these targets open it in theirs."""
    backbone = encoder("clip:transformer")
    for result in verified(target, source_of(backbone, linear_head(backbone)), tmp_path, fresh=True):
        assert result["opened"]
        assert result["difference"] < 1e-6
