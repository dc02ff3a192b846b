"""What an export starts from: the head, and what its loss learned."""

from pathlib import Path

import pytest

from clipret import ExportConfig, TrainConfig, train
from clipret.exports.checkpoints.source import open_source
from clipret.exports.targets.clip import TARGET as CLIP
from clipret.heads.files import load_scalars
from clipret.machine.tensors import open_tensors, write_tensors


def source_of(run: Path):
    return open_source(ExportConfig(run=run, to="clip", out=run.parent / "out"), encoder=False).source


def trained(cache_path, folder, **settings) -> Path:
    return Path(train(TrainConfig(cache=cache_path, runs_dir=folder, epochs=2, batch_size=8, **settings))["run"])


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_scale_and_bias_are_those_that_the_head_was_kept_with(cache_path, tmp_path, loss):
    run = trained(cache_path, tmp_path / "runs", loss=loss, lr=1e-2, keep="last")
    scalars, source = load_scalars(run / "head.safetensors"), source_of(run)
    assert source.log_scale == scalars["log_scale"]
    assert source.bias == scalars.get("bias")
    assert (source.bias is None) == (loss == "infonce")


def test_of_a_loss_without_them_the_encoders_own_scale_stays(cache_path, tmp_path):
    source = source_of(trained(cache_path, tmp_path / "runs", loss="margin"))
    assert (source.log_scale, source.bias) == (None, None)


def test_a_head_of_before_they_were_kept_is_exported_without(cache_path, tmp_path):
    run = trained(cache_path, tmp_path / "runs", loss="sigmoid")
    file = open_tensors(run / "head.safetensors")
    metadata = {name: text for name, text in file.metadata.items() if name not in ("log_scale", "bias", "sha256")}
    write_tensors(run / "head.safetensors", file.read(), metadata=metadata)
    source = source_of(run)
    assert (source.log_scale, source.bias) == (None, None)


def test_clip_says_that_it_has_no_place_for_a_bias(cache_path, tmp_path):
    source = source_of(trained(cache_path, tmp_path / "runs", loss="sigmoid", lr=1e-4))
    assert CLIP.remarks(source) == (
        f"the bias of the loss, {source.bias:.4g}, has no place there: probabilities need it beside the scale, ranks "
        f"need neither",
    )
    assert CLIP.remarks(source_of(trained(cache_path, tmp_path / "runs", loss="infonce"))) == ()
