"""Fine-tuning of a whole encoder: its gradients, its measure on val, and what is kept."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from clipret import EvalConfig, evaluate

WORDS = ("cat", "dog", "sun", "tree", "car", "boat", "star", "fish", "bird", "house", "apple", "ball")


@pytest.fixture
def fine_tuning(script):
    return script("fine_tuning")


@pytest.fixture
def bed_folder(script, monkeypatch, tmp_path):
    """A test bed `small` of twelve pictures, the first of which has two captions."""
    testbeds, generator = script("testbeds"), np.random.default_rng(0)

    def write(folder):
        pairs = []
        for number, word in enumerate(WORDS):
            pixels = generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            split = "test" if number < 3 else "val" if number < 7 else "train"
            pairs.append(testbeds.Pair(f"{number}.png", f"a {word}", split))
        pairs.append(testbeds.Pair("3.png", "a picture", "val"))
        testbeds._write(folder / "small.csv", pairs)

    monkeypatch.setitem(testbeds._TABLES, "small", write)
    return tmp_path


def test_gradients_of_infonce_are_those_of_cross_entropy_with_equal_captions_as_matches(fine_tuning, script):
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    ids = torch.tensor([[1, 2], [3, 4], [1, 2], [5, 6], [7, 8]])
    same = (ids[:, None] == ids[None]).all(-1)

    def unit(values):
        return torch.nn.functional.normalize(values, dim=-1)

    ours = [values.clone().requires_grad_() for values in (images, texts)]
    scale = torch.nn.Parameter(torch.tensor(1.5))
    embedded = tuple(unit(values.float()) for values in ours)
    fine_tuning._backward(fine_tuning.load_loss("infonce"), embedded, ids, scalars={"log_scale": scale})
    plain = [values.clone().requires_grad_() for values in (images, texts)]
    learned = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    loss = script("tiny_clip_model").contrastive_loss
    # Its rows are images; the loss is the same in both directions.
    loss(unit(plain[0]), unit(plain[1]), scale=learned.exp(), same=same.double()).backward()
    for value, expected in zip((*ours, scale), (*plain, learned), strict=True):
        torch.testing.assert_close(value.grad.double(), expected.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.ci
def test_the_best_point_of_the_grid_is_measured_as_any_checkpoint_and_kept(fine_tuning, bed_folder, monkeypatch):
    grid = [fine_tuning.Setting("infonce", lr, epochs=2, batch_size=3) for lr in (1e-9, 3e-4)]
    record = fine_tuning.ceiling("small", folder=bed_folder, grid=grid)
    assert [point["lr"] for point in record["grid"]] == [1e-9, 3e-4]
    assert record["best"] == max(record["grid"], key=lambda point: point["val_rsum"])
    assert all(point["cpu_seconds"] > 0 for point in record["grid"])
    cache = bed_folder / "small-fine-tuned.h5"
    val = evaluate(EvalConfig(cache=cache, zero_shot=True, split="val"))
    assert val["rsum"]["zero-shot"] == pytest.approx(record["best"]["val_rsum"], abs=1e-6)
    assert val["protocol"]["captions"] == 5
    assert record["test"] == evaluate(EvalConfig(cache=cache, zero_shot=True))["results"]["zero-shot"]

    def fail(*arguments, **settings):
        raise AssertionError

    monkeypatch.setattr(fine_tuning, "fine_tune", fail)
    again = fine_tuning.ceiling("small", folder=bed_folder, grid=grid)
    assert again == record == json.loads((bed_folder / "small-fine-tuned.json").read_text())
