"""Runs that are trained together have the same results as alone."""

import pytest
import torch
from safetensors.torch import load_file

from clipret import TrainConfig, train
from clipret.training import blocks, train_many


@pytest.fixture
def settings(cache_path, tmp_path):
    def make(**changes):
        values = {"cache": cache_path, "runs_dir": tmp_path / "runs", "epochs": 4, "batch_size": 8, "lr": 1e-2}
        return TrainConfig(**(values | changes))

    return make


@pytest.mark.ci
def test_many_runs_are_trained_as_each_would_be_alone(settings):
    """Final heads within 1e-5, of 24 runs that differ in loss's numbers, learning rate, seed, epochs and patience."""
    grid = [
        {"margin": margin, "lr": lr, "seed": seed, "epochs": 3 + seed}
        for margin in (0.0, 0.1, 0.2)
        for lr in (1e-3, 3e-3)
        for seed in range(4)
    ]
    configs = [settings(keep="last", **changes) for changes in grid]
    alone = [train(config) for config in configs]
    finished = []
    together = train_many(configs, on_run=lambda place, result: finished.append(place))
    assert sorted(finished) == list(range(24))
    for one, other in zip(alone, together, strict=True):
        assert one["epochs"] == other["epochs"]
        pair = [load_file(result["run"] + "/head.safetensors") for result in (one, other)]
        for name in pair[0]:
            torch.testing.assert_close(pair[0][name], pair[1][name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "infonce"},
        {"loss": "triplet"},
        {"loss": "sigmoid"},
        {"head": "adapter"},
        {"train": "image"},
        {"hard_negatives": 1},
        {"captions_per_step": "all"},
        {"margin": "auto:0.8"},
        {"ema": 0.9, "clip_norm": 0.01},
        {"keep_neighbours": 0.5},
        {"head": "gated", "hidden": 8, "bias": True},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_runs_of_every_kind_are_stacked(settings, changes):
    configs = [settings(keep="last", seed=seed, lr=lr, **changes) for seed, lr in ((0, 1e-3), (1, 3e-3), (2, 1e-3))]
    for config, other in zip(configs, train_many(configs, stack=2), strict=True):
        pair = [load_file(result["run"] + "/head.safetensors") for result in (train(config), other)]
        for name in pair[0]:
            torch.testing.assert_close(pair[0][name], pair[1][name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", ["margin", "infonce", "triplet", "sigmoid"])
def test_runs_whose_similarities_together_need_blocks_are_what_they_are_alone(settings, loss, monkeypatch):
    configs = [settings(keep="last", loss=loss, seed=seed) for seed in range(3)]
    alone = [train(config) for config in configs]
    # Those of two captions of the three runs.
    monkeypatch.setattr(blocks, "_MOST_BYTES", 4 * 3 * 8 * 2)
    for one, other in zip(alone, train_many(configs, stack=3), strict=True):
        pair = [load_file(result["run"] + "/head.safetensors") for result in (one, other)]
        for name in pair[0]:
            torch.testing.assert_close(pair[0][name], pair[1][name], rtol=1e-4, atol=1e-5)


def test_a_run_that_has_to_stop_does_not_affect_the_others(settings):
    configs = [settings(), settings(lr=1000, weight_decay=1e6, batch_size=8), settings(seed=1)]
    results = train_many(configs)
    assert results[1]["error"].startswith("the loss is nan at step ")
    for place in (0, 2):
        alone = load_file(train(configs[place])["run"] + "/head.safetensors")
        torch.testing.assert_close(load_file(results[place]["run"] + "/head.safetensors"), alone, rtol=1e-5, atol=1e-6)
