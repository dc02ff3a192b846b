"""What a run keeps of its loss: the scalars of the kept epoch."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipret import TrainConfig, train
from clipret.heads.files import load_scalars
from clipret.machine.tensors import open_tensors
from clipret.training import train_many
from clipret.training.record import Record
from tests.helpers import own


@pytest.fixture
def settings(cache_path, tmp_path):
    values = {"cache": cache_path, "runs_dir": tmp_path / "runs", "epochs": 4, "batch_size": 8, "lr": 3e-2}

    def make(**changes):
        return TrainConfig(**(values | changes))

    return make


@pytest.fixture
def states(monkeypatch):
    """(epoch, the optimiser's own scalars) of everything that is recorded, in float32."""
    recorded, add = [], Record.add

    def spy(self, state, **rest):
        scalars = {name.removeprefix("scalar/"): v.clone() for name, v in state.items() if name.startswith("scalar/")}
        score = add(self, state, **rest)
        recorded.append((self.epoch, scalars))
        return score

    monkeypatch.setattr(Record, "add", spy)
    return recorded


LEARNED = [
    {"loss": "infonce"},
    {"loss": "sigmoid"},
    {"loss": "sigmoid", "ema": 0.9, "keep": "last"},
    {"loss": "infonce", "head": "adapter", "patience": 1},
]


@pytest.mark.parametrize("changes", LEARNED, ids=lambda changes: " ".join(map(str, changes.values())))
def test_the_head_has_the_scalars_of_the_kept_epoch(settings, states, changes):
    result = train(settings(**changes))
    expected = dict(states)[result["kept_epoch"]]
    scalars = load_scalars(Path(result["run"], "head.safetensors"))
    assert (
        scalars.keys() == expected.keys() == ({"log_scale", "bias"} if "sigmoid" in changes.values() else {"log_scale"})
    )
    assert {name: torch.tensor(value) for name, value in scalars.items()} == expected
    assert result["scalars"] == scalars
    # They move, so that those of another epoch are others.
    assert len({tuple(map(float, values.values())) for _, values in states}) == len(states)


def test_of_the_epochs_the_history_has_them(settings, states):
    run = train(settings(loss="sigmoid"))["run"]
    rows = list(csv.DictReader(Path(run, "history.csv").read_text().splitlines()))
    assert [(float(row["log_scale"]), float(row["bias"])) for row in rows] == [
        (pytest.approx(float(scalars["log_scale"]), rel=1e-5), pytest.approx(float(scalars["bias"]), rel=1e-5))
        for _, scalars in states
    ]


def test_a_temperature_that_is_fixed_is_kept_beside_what_is_learned(settings):
    result = train(settings(loss="sigmoid", temperature=0.05))
    scalars = load_scalars(Path(result["run"], "head.safetensors"))
    assert scalars["log_scale"] == -math.log(0.05)
    assert scalars["bias"] != -10.0


def test_a_head_of_the_users_own_has_them_too(settings, states, tmp_path, monkeypatch):
    own.forget(monkeypatch, tmp_path / "state")
    result = train(settings(loss="sigmoid", head=own.write(tmp_path)["head"]))
    scalars = load_scalars(Path(result["run"], "head.safetensors"))
    assert {name: torch.tensor(value) for name, value in scalars.items()} == dict(states)[result["kept_epoch"]]
    assert scalars["bias"] != -10.0 or result["kept_epoch"] == 0


@pytest.mark.parametrize("loss", ["margin", "triplet", "own"])
def test_a_loss_without_scalars_leaves_no_trace(settings, tmp_path, monkeypatch, loss):
    own.forget(monkeypatch, tmp_path / "state")
    result = train(settings(loss=own.write(tmp_path)["loss"] if loss == "own" else loss))
    assert "scalars" not in result
    assert set(open_tensors(Path(result["run"], "head.safetensors")).metadata) == {
        *("epoch", "fingerprint", "format", "kind", "model", "sha256", "weights_sha256", "widths"),
    }
    assert "scale" not in Path(result["run"], "history.csv").read_text()


def test_each_run_of_a_stack_has_the_scalars_that_it_has_alone(settings):
    configs = [
        settings(loss="sigmoid", lr=lr, seed=seed, keep="last", name=f"{lr}-{seed}")
        for lr in (1e-3, 3e-2)
        for seed in (0, 1)
    ]
    together = [result["scalars"] for result in train_many(configs)]
    assert together == [train(replace(config, name=f"{config.name}-alone"))["scalars"] for config in configs]
    assert len({scalars["bias"] for scalars in together}) == 4
