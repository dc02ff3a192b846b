"""A run that was measured."""

from pathlib import Path

import pytest

from clipret import EvalConfig, TrainConfig, evaluate, train


@pytest.fixture
def run(cache_path, tmp_path) -> Path:
    settings = {"loss": "sigmoid", "epochs": 3, "batch_size": 8, "lr": 3e-3, "warmup": 2, "seed": 1}
    folder = Path(train(TrainConfig(cache=cache_path, runs_dir=tmp_path / "home/me/runs", **settings))["run"])
    evaluate(EvalConfig(head=folder, resamples=200))
    return folder
