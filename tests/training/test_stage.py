import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipret import FeatureCache, TrainConfig, train
from clipret.cache import open_writer
from clipret.errors import CacheError, RunError, TrainingError, UsageError
from clipret.machine.devices import require_bfloat16
from clipret.training import repeated_config
from clipret.training.schedule import learning_rate
from tests.conftest import contents, write_cache


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
    assert sorted({report.done for report in reports}) == list(range(21))
    assert {"loss", "val rsum"} in [set(report.detail) for report in reports]
    assert {report.total for report in reports} == {20}
    recalls = [float(lines[-1][f"val_{direction}_R@{k}"]) for direction in ("t2i", "i2t") for k in (1, 5, 10)]
    assert scores[-1] == pytest.approx(sum(recalls), abs=1e-5)


def test_the_kept_head_is_the_best_epochs_not_the_last(settings):
    """A training that diverges keeps the head it had before."""
    result = train(settings(epochs=12, lr=3.0, schedule="constant"))
    scores = [float(line["val_rsum"]) for line in history(result["run"])]
    best = int(np.argmax(scores))
    assert best < 12
    same = train(settings(epochs=best, lr=3.0, schedule="constant"))
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
    assert {str(tensor.dtype) for name, tensor in head.items() if name != "trained_on"} == {"torch.float32"}
    for name in ("image/weight", "image/bias", "text/weight"):
        assert not np.allclose(start[name], head[name.replace("/", "_")].numpy(), atol=1e-6)


def test_one_step_is_the_gradient_of_the_naive_loss(tmp_path):
    """One full-batch step of the loop equals AdamW on the loss of a plain double loop."""
    content = contents(
        images=6, captions=list("abcdef"), caption_images=np.arange(6), image_splits=np.zeros(6, np.uint8)
    )
    cache = FeatureCache(write_cache(tmp_path / "made.h5", content))
    config = TrainConfig(cache=cache.path, runs_dir=tmp_path / "runs", epochs=1, batch_size=6, margin=0.2)
    trained = load_file(train(config)["run"] + "/head.safetensors")
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
    torch.testing.assert_close(trained["image_weight"], image_weight.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(trained["text_weight"], text_weight.detach(), rtol=1e-6, atol=1e-7)


def test_without_a_val_split_the_last_epoch_is_kept_with_a_remark(tmp_path):
    path = write_cache(tmp_path / "made.h5", contents(image_splits=np.zeros(60, np.uint8)))
    result = train(TrainConfig(cache=path, runs_dir=tmp_path / "runs", epochs=3))
    assert (result["kept_epoch"], result["val_rsum"], result["zero_shot_val_rsum"]) == (3, None, None)
    assert "val_rsum" not in history(result["run"])[0]


def test_a_run_holds_what_repeats_it(settings, cache_path):
    config = settings(margin=0.3)
    record = json.loads(Path(train(config)["run"], "config.json").read_text())
    assert record["cache"] == {"path": str(cache_path), "fingerprint": FeatureCache(cache_path).fingerprint}
    assert TrainConfig(**record["config"]) == config


def test_runs_are_numbered_and_a_taken_name_is_refused(settings):
    names = [train(settings(epochs=1))["run"].rpartition("/")[2] for _ in range(2)]
    assert names == ["0001-margin-linear", "0002-margin-linear"]
    assert train(settings(epochs=1, name="mine"))["run"].endswith("/mine")
    with pytest.raises(RunError, match=r"mine exists already; give another --name"):
        train(settings(name="mine"))


def test_the_last_epoch_is_kept_when_asked_for(settings):
    """Its head equals that of the same training if its best epoch is the last."""
    result = train(settings(epochs=12, lr=3.0, keep="last"))
    scores = [float(line["val_rsum"]) for line in history(result["run"])]
    assert (result["kept_epoch"], result["val_rsum"]) == (12, pytest.approx(scores[12], abs=1e-6))
    best = train(settings(epochs=12, lr=3.0))
    assert best["kept_epoch"] < 12
    last, other = (load_file(f"{run['run']}/head.safetensors") for run in (result, best))
    assert not torch.equal(last["image_weight"], other["image_weight"])


def test_nan_features_are_refused_before_a_run_is_made(tmp_path):
    path, content = tmp_path / "nan.h5", contents()
    with open_writer(path, content) as writer:
        features = np.ones((60, 24), np.float16)
        features[0, 0] = np.nan
        writer.write_images(0, features=features, problems={})
        writer.write_texts(
            0, features=np.ones((len(content.captions), 16), np.float16), tokens=np.full(len(content.captions), 3)
        )
    with pytest.raises(CacheError, match="features of 1 image rows are not finite"):
        train(TrainConfig(cache=path, runs_dir=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_no_training_images_is_an_error(tmp_path):
    path = write_cache(tmp_path / "made.h5", contents(image_splits=np.full(60, 2, np.uint8)))
    with pytest.raises(UsageError, match="split 'train' has 0 usable images"):
        train(TrainConfig(cache=path, runs_dir=tmp_path / "runs"))


def rates_of(config, *, steps, per_epoch=5):
    return [learning_rate(config, step=step, steps=steps, per_epoch=per_epoch) for step in range(steps)]


def test_schedules_are_what_their_formulas_say(cache_path):
    steps = np.arange(20)
    cosine = rates_of(TrainConfig(cache_path, lr=1e-2, schedule="cosine"), steps=20)
    np.testing.assert_allclose(cosine, 1e-2 * (1 + np.cos(np.pi * steps / 20)) / 2, rtol=1e-12)
    falling = rates_of(TrainConfig(cache_path, lr=1.0, schedule="step", step_epochs=2, step_factor=0.1), steps=20)
    np.testing.assert_allclose(falling, [1.0] * 10 + [0.1] * 10)
    warm = rates_of(TrainConfig(cache_path, lr=1.0, schedule="constant", warmup=4), steps=20)
    np.testing.assert_allclose(warm, [0.25, 0.5, 0.75] + [1.0] * 17)
    both = rates_of(TrainConfig(cache_path, lr=1e-2, schedule="cosine", warmup=10), steps=20)
    np.testing.assert_allclose(both, np.array(cosine) * np.minimum(1, (steps + 1) / 10))


def test_the_history_names_the_learning_rate_of_each_epochs_last_step(settings):
    lines = history(train(settings(epochs=3, schedule="cosine"))["run"])
    steps = 15  # 36 images in batches of at most 8
    expected = [1e-2 * (1 + np.cos(np.pi * (5 * epoch - 1) / steps)) / 2 for epoch in (1, 2, 3)]
    np.testing.assert_allclose([float(line["lr"]) for line in lines[1:]], expected, rtol=1e-5)


def test_steps_end_a_training_in_the_middle_of_an_epoch(settings):
    result = train(settings(steps=7))
    assert (result["steps"], result["epochs"]) == (7, 2)
    assert len(history(result["run"])) == 3


def test_no_epochs_leave_the_head_as_it_starts(settings, cache_path):
    result = train(settings(epochs=0))
    assert (result["kept_epoch"], result["epochs"], result["steps"]) == (0, 0, 0)
    head, start = load_file(result["run"] + "/head.safetensors"), FeatureCache(cache_path).projections
    np.testing.assert_array_equal(head["image_weight"], start["image/weight"])
    assert result["val_rsum"] == result["zero_shot_val_rsum"]


def test_a_batch_larger_than_the_set_takes_all_of_it_and_says_so(settings):
    result = train(settings(batch_size=1000))
    assert result["steps"] == 4
    assert result["remarks"] == ["--batch-size 1,000 is more than the 36 training images; every step takes all of them"]


NO_NEGATIVES = (
    "there are batches without negatives (of one image, or of captions that are all the same text): their matching "
    "pairs are pulled together and nothing pushes others apart; use a larger --batch-size"
)


@pytest.mark.parametrize("loss", ["margin", "infonce", "triplet", "sigmoid"])
def test_batches_of_one_image_have_no_negatives_and_a_remark_says_so(settings, loss):
    assert train(settings(batch_size=1, epochs=1, loss=loss))["remarks"] == [NO_NEGATIVES]


def test_a_single_image_trains_with_a_remark_on_missing_negatives(tmp_path):
    path = write_cache(tmp_path / "one.h5", contents(images=1, captions=["a", "b"], caption_images=np.array([0, 0])))
    result = train(TrainConfig(cache=path, runs_dir=tmp_path / "runs", epochs=2))
    assert (result["train_images"], result["steps"]) == (1, 2)
    assert NO_NEGATIVES in result["remarks"]


def test_captions_that_are_all_the_same_are_refused(tmp_path):
    path = write_cache(tmp_path / "same.h5", contents(images=10, captions=["a"] * 10, caption_images=np.arange(10)))
    with pytest.raises(TrainingError) as caught:
        train(TrainConfig(cache=path, runs_dir=tmp_path / "runs"))
    assert str(caught.value) == (
        f"the 6 training captions of {path} are all the same text, so that every caption matches every image and there "
        f"is nothing to learn; expected captions that differ."
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("batch_size", "what"), [(4, "the loss is nan at step "), (16, "the head overflows float32 at step 3 (epoch 1), ")]
)
def test_a_run_that_diverges_stops_with_the_step_and_the_way_out(batch_size, what, settings, tmp_path):
    with pytest.raises(TrainingError) as caught:
        train(settings(lr=1000, weight_decay=1e6, batch_size=batch_size, schedule="constant"))
    message = str(caught.value)
    assert message.startswith(what)
    assert message.endswith(
        "at a learning rate of 1000; the run keeps the head it had before. Try a lower --lr, a --warmup, or "
        "--clip-norm 1."
    )
    assert (tmp_path / "runs" / "0001-margin-linear" / "head.safetensors").exists()


def test_early_stopping_ends_a_run_after_its_patience(settings):
    result = train(settings(epochs=50, lr=3.0, patience=3))
    scores = [float(line["val_rsum"]) for line in history(result["run"])]
    assert len(scores) == result["epochs"] + 1 < 51
    assert result["epochs"] - int(np.argmax(scores)) == 3
    assert result["remarks"] == [f"stopped early after epoch {result['epochs']}: no better validation rsum in 3 epochs"]


def test_an_average_of_the_head_is_what_is_measured_and_kept(settings):
    """With a decay of 1 the average never moves, with 0 it is the head."""
    plain, none, still = (train(settings(keep="last", ema=decay)) for decay in (None, 0.0, 1.0))
    heads = [load_file(result["run"] + "/head.safetensors") for result in (plain, none, still)]
    torch.testing.assert_close(heads[0], heads[1])
    start = load_file(train(settings(epochs=0))["run"] + "/head.safetensors")
    torch.testing.assert_close(heads[2], start)
    assert len({line["val_rsum"] for line in history(still["run"])}) == 1


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("head", ["linear", "adapter"])
def test_a_side_that_does_not_learn_stays_clips(settings, cache_path, head, side):
    result = train(settings(head=head, train=side, keep="last"))
    trained, start = load_file(result["run"] + "/head.safetensors"), FeatureCache(cache_path).projections
    other = "text" if side == "image" else "image"
    np.testing.assert_array_equal(trained[f"{other}_weight"], start[f"{other}/weight"])
    assert f"{other}_down" not in trained
    if head == "linear":
        assert not np.allclose(trained[f"{side}_weight"], start[f"{side}/weight"])
    else:
        assert trained[f"{side}_up"].abs().max() > 0


@pytest.mark.parametrize("placement", ["host", "disk"])
def test_where_features_live_changes_no_bit(settings, placement):
    results = [train(settings(features=where)) for where in ("device", placement)]
    heads = [load_file(result["run"] + "/head.safetensors") for result in results]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert results[1]["features"] == placement


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "infonce"},
        {"loss": "infonce", "temperature": 0.05},
        {"loss": "sigmoid"},
        {"loss": "triplet", "margin": 0.2},
        {"loss": "triplet", "violation": "sum"},
        {"captions_per_step": "all"},
        {"captions_per_step": "all", "loss": "infonce"},
        {"hard_negatives": 2},
        {"margin": "0.5:0.1"},
        {"margin": "auto"},
        {"head": "adapter"},
        {"head": "adapter", "adapter_relu": False},
        {"init": "random"},
        {"init": "procrustes"},
        {"init": "ridge"},
        {"precision": "bf16"},
        {"clip_norm": 0.1},
        {"keep_neighbours": 0.3},
        {"bias": True},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_every_way_of_training_gains_on_validation_and_repeats_its_bits(settings, changes):
    if changes.get("precision") == "bf16":
        try:
            require_bfloat16("cpu", other="fp32")
        except UsageError as error:
            pytest.skip(str(error))
    results = [train(settings(epochs=15, lr=3e-3, **changes)) for _ in range(2)]
    heads = [load_file(result["run"] + "/head.safetensors") for result in results]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    start = float(history(results[0]["run"])[0]["val_rsum"])
    assert results[0]["val_rsum"] > start


def test_tf32_is_for_cuda(settings):
    with pytest.raises(UsageError) as caught:
        train(settings(precision="tf32", device="cpu"))
    assert str(caught.value) == "--precision is tf32, which is for CUDA only; on the CPU use --precision fp32 or bf16."


def test_a_run_is_repeated_from_its_config_to_the_same_bits(settings):
    config = settings(loss="infonce", head="adapter", margin="auto", schedule="cosine", warmup=3, ema=0.9, name="first")
    first = Path(train(config)["run"])
    again = repeated_config(first / "config.json")
    assert again.name is None
    second = train(again)["run"]
    heads = [load_file(f"{run}/head.safetensors") for run in (first, second)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert repeated_config(first, changes={"seed": 5}).seed == 5
