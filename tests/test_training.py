import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import contents, write_cache
from safetensors.torch import load_file

from clipret import FeatureCache, TrainConfig, train, training
from clipret.cache import open_writer
from clipret.errors import CacheError, RunError, TrainingError, UsageError
from clipret.losses import margin_loss
from clipret.protocols import split_protocol
from clipret.training import _training_pairs


@pytest.fixture
def settings(cache_path, tmp_path):
    def make(**changes):
        values = {"cache": cache_path, "runs_dir": tmp_path / "runs", "epochs": 4, "batch_size": 8, "lr": 1e-2}
        return TrainConfig(**(values | changes))

    return make


def history(run):
    return list(csv.DictReader(Path(run, "history.csv").read_text().splitlines()))


def test_training_gains_on_validation_and_keeps_its_best_epoch(settings, tmp_path):
    reports = []
    result = train(settings(epochs=20), on_progress=reports.append)
    lines = history(result["run"])
    scores = [float(line["val_rsum"]) for line in lines]
    assert [int(line["epoch"]) for line in lines] == list(range(21))
    assert lines[0]["loss"] == ""
    assert result["kept_epoch"] == int(np.argmax(scores)) > 0
    assert result["val_rsum"] == pytest.approx(max(scores), abs=1e-6)
    assert result["val_rsum"] > result["zero_shot_val_rsum"] == pytest.approx(scores[0], abs=1e-6)
    assert float(lines[-1]["loss"]) < float(lines[1]["loss"])
    assert [report.done for report in reports] == list(range(21))
    assert set(reports[-1].detail) == {"loss", "val rsum"}
    recalls = [float(lines[-1][f"val_{way}_R@{k}"]) for way in ("t2i", "i2t") for k in (1, 5, 10)]
    assert scores[-1] == pytest.approx(sum(recalls), abs=1e-5)


def test_the_kept_head_is_the_best_epochs_not_the_last(settings):
    """A schedule that ends in ruin keeps the head it had before."""
    result = train(settings(epochs=12, lr=3.0))
    scores = [float(line["val_rsum"]) for line in history(result["run"])]
    best = int(np.argmax(scores))
    assert best < 12
    same = train(settings(epochs=max(best, 1), lr=3.0))
    kept, expected = (load_file(f"{run['run']}/head.safetensors") for run in (result, same))
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(settings):
    heads = [load_file(train(settings(seed=seed))["run"] + "/head.safetensors") for seed in (1, 1, 2)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not torch.equal(heads[0]["image_weight"], heads[2]["image_weight"])


def test_weights_stay_float32_and_both_sides_and_the_bias_move(tmp_path):
    path = write_cache(tmp_path / "bias.h5", contents(bias=True))
    result = train(TrainConfig(cache=path, runs_dir=tmp_path / "runs", epochs=5, lr=1e-2))
    start, head = FeatureCache(path).projections, load_file(result["run"] + "/head.safetensors")
    assert {tensor.dtype for tensor in head.values()} == {torch.float32}
    for name in ("image/weight", "image/bias", "text/weight"):
        assert not np.allclose(start[name], head[name.replace("/", "_")].numpy(), atol=1e-6)


def test_one_step_is_the_gradient_of_the_naive_loss(tmp_path):
    """One full-batch step of the loop equals AdamW on the loss of a plain double loop."""
    made = contents(images=6, captions=list("abcdef"), caption_images=np.arange(6), image_splits=np.zeros(6, np.uint8))
    cache = FeatureCache(write_cache(tmp_path / "made.h5", made))
    config = TrainConfig(cache=cache.path, runs_dir=tmp_path / "runs", epochs=1, batch_size=6, margin=0.2)
    found = load_file(train(config)["run"] + "/head.safetensors")
    image_weight = torch.tensor(cache.projections["image/weight"], requires_grad=True)
    text_weight = torch.tensor(cache.projections["text/weight"], requires_grad=True)
    images = torch.nn.functional.normalize(torch.tensor(cache.image_features[:]).float() @ image_weight, dim=1)
    texts = torch.nn.functional.normalize(torch.tensor(cache.text_features[:]).float() @ text_weight, dim=1)
    loss = 0
    for i in range(6):
        for j in range(6):
            s = texts[i] @ images[j]
            loss = loss + (0.5 * (1 - s) / 6 if i == j else 0.5 * (s - 0.2).clamp_min(0) / 30)
    optimiser = torch.optim.AdamW([image_weight, text_weight], lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-3)
    loss.backward()
    optimiser.step()
    torch.testing.assert_close(found["image_weight"], image_weight.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found["text_weight"], text_weight.detach(), rtol=1e-6, atol=1e-7)


def test_captions_are_drawn_uniformly_from_the_images_own(cache_path):
    cache = FeatureCache(cache_path)
    pairs = _training_pairs(cache, split_protocol(cache, split="train").folds[0], device="cpu")
    owners = cache.caption_images[cache.image_splits[cache.caption_images] == 0]
    rows = np.flatnonzero(cache.image_splits == 0)
    generator, drawn = torch.Generator().manual_seed(0), np.zeros(len(owners))
    for _ in range(3000):
        captions = pairs.draw_captions(generator).numpy()
        np.testing.assert_array_equal(owners[captions], rows)
        drawn[captions] += 1
    expected = 3000 / pairs.counts.numpy().repeat(pairs.counts.numpy())
    np.testing.assert_allclose(drawn, expected, rtol=0.15)


def test_captions_in_mixed_order_stay_with_their_image(tmp_path):
    owners = np.random.default_rng(1).permutation(np.repeat(np.arange(20), 3))
    made = contents(images=20, captions=[str(owner) for owner in owners], caption_images=owners)
    cache = FeatureCache(write_cache(tmp_path / "made.h5", made))
    pairs = _training_pairs(cache, split_protocol(cache, split="train").folds[0], device="cpu")
    captions = pairs.draw_captions(torch.Generator().manual_seed(0))
    rows = np.flatnonzero(cache.image_splits == 0)
    for place, row in enumerate(rows):
        own = cache.text_features[owners == row]
        assert (own == pairs.texts[captions[place]].numpy()).all(axis=1).any()


def test_an_image_without_captions_is_not_trained_on(tmp_path):
    made = contents(images=10, captions=["a", "b", "c"], caption_images=np.array([0, 2, 2]))
    path = write_cache(tmp_path / "made.h5", made)
    result = train(TrainConfig(cache=path, runs_dir=tmp_path / "runs", epochs=1))
    assert result["train_images"] == 2


def test_without_a_val_split_the_last_epoch_is_kept_and_said(tmp_path):
    path = write_cache(tmp_path / "made.h5", contents(image_splits=np.zeros(60, np.uint8)))
    result = train(TrainConfig(cache=path, runs_dir=tmp_path / "runs", epochs=3))
    assert (result["kept_epoch"], result["val_rsum"], result["zero_shot_val_rsum"]) == (3, None, None)
    assert "val_rsum" not in history(result["run"])[0]


def test_a_run_holds_what_repeats_it(settings, cache_path):
    config = settings(margin=0.3)
    record = json.loads(Path(train(config)["run"], "config.json").read_text())
    assert record["cache"] == {"path": str(cache_path), "fingerprint": FeatureCache(cache_path).fingerprint}
    again = TrainConfig(**record["config"])
    assert again == config


def test_runs_are_numbered_and_a_taken_name_is_refused(settings):
    names = [train(settings(epochs=1))["run"].rpartition("/")[2] for _ in range(2)]
    assert names == ["0001-margin-linear", "0002-margin-linear"]
    assert train(settings(epochs=1, name="mine"))["run"].endswith("/mine")
    with pytest.raises(RunError, match=r"mine exists already; give another --name"):
        train(settings(name="mine"))


def test_the_last_epoch_is_kept_when_asked_for(settings):
    """Its head is that of the same training whose best epoch happens to be the last."""
    result = train(settings(epochs=12, lr=3.0, keep="last"))
    scores = [float(line["val_rsum"]) for line in history(result["run"])]
    assert (result["kept_epoch"], result["val_rsum"]) == (12, pytest.approx(scores[12], abs=1e-6))
    best = train(settings(epochs=12, lr=3.0))
    assert best["kept_epoch"] < 12
    last, other = (load_file(f"{run['run']}/head.safetensors") for run in (result, best))
    assert not torch.equal(last["image_weight"], other["image_weight"])


def test_a_cosine_schedule_ends_where_nothing_moves(settings):
    """The learning rate of step t of T is lr (1 + cos(pi t / T)) / 2."""
    rates, real = [], torch.optim.AdamW.step

    def spy(optimiser, *arguments, **options):
        rates.append(optimiser.param_groups[0]["lr"])
        return real(optimiser, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", spy)
        train(settings(epochs=4, schedule="cosine"))
    steps = np.arange(len(rates))
    np.testing.assert_allclose(rates, 1e-2 * (1 + np.cos(np.pi * steps / len(rates))) / 2, rtol=1e-6)


def test_batches_cover_every_image_once_in_nearly_equal_sizes(settings, cache_path, monkeypatch):
    sizes = []

    def spy(similarities, positives, **options):
        sizes.append(len(similarities))
        assert torch.equal(positives, torch.eye(len(similarities), dtype=torch.bool))
        return margin_loss(similarities, positives, **options)

    monkeypatch.setattr(training, "margin_loss", spy)
    result = train(settings(epochs=2, batch_size=35))  # 36 images: 35 and 1, if it were not for the even cut
    assert sizes == [18, 18, 18, 18]
    assert result["steps"] == 4


def test_a_batch_larger_than_the_set_and_a_single_image_train(tmp_path):
    path = write_cache(tmp_path / "one.h5", contents(images=1, captions=["a", "b"], caption_images=np.array([0, 0])))
    result = train(TrainConfig(cache=path, runs_dir=tmp_path / "runs", epochs=2, batch_size=1000))
    assert (result["train_images"], result["steps"]) == (1, 2)


def test_a_loss_that_is_not_finite_stops_with_the_way_out(settings, tmp_path):
    with pytest.raises(TrainingError, match=r"the loss of epoch 2 is nan at --lr 1000; .* Try a lower --lr"):
        train(settings(lr=1000, weight_decay=1e6, batch_size=16))
    assert (tmp_path / "runs" / "0001-margin-linear" / "head.safetensors").exists()


def test_nan_features_are_refused_before_a_run_is_made(tmp_path):
    path, made = tmp_path / "nan.h5", contents()
    with open_writer(path, made) as writer:
        features = np.ones((60, 24), np.float16)
        features[0, 0] = np.nan
        writer.write_images(0, features=features, problems={})
        writer.write_texts(
            0, features=np.ones((len(made.captions), 16), np.float16), tokens=np.full(len(made.captions), 3)
        )
    with pytest.raises(CacheError, match="features of 1 image rows are not finite"):
        train(TrainConfig(cache=path, runs_dir=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_no_training_images_is_said(tmp_path):
    path = write_cache(tmp_path / "made.h5", contents(image_splits=np.full(60, 2, np.uint8)))
    with pytest.raises(UsageError, match="split 'train' has 0 usable images"):
        train(TrainConfig(cache=path, runs_dir=tmp_path / "runs"))
