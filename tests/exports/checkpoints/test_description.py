"""The record of an export says what it is of, and not where things are on this machine."""

import json
from pathlib import Path

import pytest

from clipret import EvalConfig, SweepConfig, TrainConfig, evaluate, sweep, train
from clipret.cache import FeatureCache
from clipret.exports.checkpoints.card.text import card_text
from clipret.heads.files import load_scalars
from clipret.retrieval.ranks_file import head_digest
from tests.conftest import contents, write_cache
from tests.helpers.exported_runs import HEAD_ONLY, record_of


@pytest.fixture
def run(tmp_path):
    """Of a cache in another folder, from an encoder that was a file."""
    folder = tmp_path / "home/me"
    folder.mkdir(parents=True)
    made = contents()
    command = f"clipret extract --dataset {folder}/photos --model {folder}/models/mine.pt --out {folder}/a b.h5"
    made.about.update(model=f"{folder}/models/mine.pt", command=command, root=f"{folder}/photos")
    cache = write_cache(folder / "made.h5", made)
    config = TrainConfig(cache=cache, runs_dir=folder / "runs", loss="sigmoid", epochs=2, batch_size=8, lr=1e-2)
    return Path(train(config)["run"])


def test_it_says_what_it_is_of(run):
    record, cache = record_of(run), FeatureCache(run.parent.parent / "made.h5")
    assert record["run"] == "0001-sigmoid-linear"
    head, scalars = run / "head.safetensors", load_scalars(run / "head.safetensors")
    assert record["head"] == {
        "file": "head.safetensors",
        "sha256": head_digest(head),
        "kind": "linear",
        "widths": "image 24, text 16, embedding 12",
        **scalars,
    }
    assert scalars.keys() == {"log_scale", "bias"}
    assert record["cache"] == {"file": "made.h5", "fingerprint": cache.fingerprint, "dtype": "float16"}
    assert record["encoder"]["model"] == "mine.pt"
    splits = record["data"]["splits"]
    assert sum(counts["images"] for counts in splits.values()) == len(cache.image_ids)
    assert sum(counts["captions"] for counts in splits.values()) == len(cache.captions)
    assert record["training"]["settings"]["lr"] == 1e-2
    assert record["training"]["train_images"] == splits["train"]["images"]


def test_no_path_of_this_machine_is_in_it(run, tmp_path):
    text = json.dumps(record_of(run))
    assert str(tmp_path) not in text
    assert "home" not in text
    assert record_of(run)["commands"] == {
        "extract": "clipret extract --dataset photos --model mine.pt --out a b.h5",
        "train": "clipret train --cache made.h5 --runs-dir runs --loss sigmoid --epochs 2 --batch-size 8 --lr 0.01",
        "eval": "clipret eval --head 0001-sigmoid-linear",
        "export": "clipret export 0001-sigmoid-linear --to clip --out exported",
    }


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, ""),
        ({"split": "val"}, " --split val"),
        ({"protocol": ("split-equal-texts",)}, " --protocol split-equal-texts"),
    ],
)
def test_the_command_of_the_figures_is_the_one_that_gave_them(run, changes, options):
    evaluate(EvalConfig(head=run, resamples=0, **changes))
    assert record_of(run)["commands"]["eval"] == f"clipret eval --head 0001-sigmoid-linear{options}"


def test_a_soup_is_described_as_one_without_settings_in_which_its_heads_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    axes = {"loss": "infonce", "lr": "1e-3,2e-3", "epochs": 2, "batch_size": 8}
    result = sweep(SweepConfig(cache=write_cache(tmp_path / "made.h5"), axes=axes, seeds=2, device="cpu", soup=True))
    run, soup = Path(result["soup"]["run"]), result["soup"]
    # As if all four had been accepted.
    content = json.loads((run / "config.json").read_text())
    content["soup"] |= {"runs": ["a", "b"], "differing": ["lr", "name", "seed"]}
    (run / "config.json").write_text(json.dumps(content))
    record = record_of(run)
    training = record["training"]
    assert training["settings"]["soup"] == "average of 2 heads of a sweep: a, b"
    assert training["settings"]["loss"] == "infonce"
    assert not {"lr", "seed"} & training["settings"].keys()
    assert (training["finished"], training["val_rsum"]) == (True, soup["val_rsum"])
    assert not {"epochs", "kept_epoch", "steps"} & (training.keys() - {"settings"})
    assert list(record["commands"]) == ["extract", "eval", "export"]
    assert "average of 2 heads of a sweep: a, b" in card_text(record, HEAD_ONLY, figures=None)
