"""From caches side by side to every table: trained, resumed, swept and measured as one cache is."""

import contextlib
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipret import EvalConfig, SweepConfig, TrainConfig, evaluate, load_head, open_run, sweep, train
from clipret.cache import open_features
from clipret.errors import CacheError, CacheMismatchError, ExportError, HeadError
from clipret.training import resume
from tests.conftest import StopAfter
from tests.helpers.joint_caches import member, write_member, write_members


@pytest.fixture
def joint(tmp_path):
    """The path of two caches side by side."""
    return ",".join(map(str, write_members(tmp_path)))


@pytest.fixture
def settings(joint, tmp_path):
    values = {"cache": joint, "runs_dir": tmp_path / "runs", "epochs": 6, "batch_size": 8, "lr": 3e-3}

    def make(**changes):
        return TrainConfig(**(values | changes))

    return make


def mean_cosines(joint):
    """(images, captions) float64 of val, by the rows of the first: the mean of both encoders' own cosines."""
    cache = open_features(joint)
    rows = {side: cache.rows(side, split="val") for side in ("image", "text")}
    total = 0
    for one in cache.members:
        units = {}
        for side, column in (("image", "image_files"), ("text", "captions")):
            theirs = list(getattr(one, column))
            own = np.array([theirs.index(getattr(cache, column)[row]) for row in rows[side]])
            projected = one.read(side, own).astype(np.float64) @ one.projections[f"{side}/weight"].astype(np.float64)
            projected = projected + one.projections.get(f"{side}/bias", np.zeros(1)).astype(np.float64)
            units[side] = projected / np.linalg.norm(projected, axis=1, keepdims=True)
        total = total + units["image"] @ units["text"].T
    return total / len(cache.members), np.searchsorted(rows["image"], cache.caption_images[rows["text"]])


def naive_rsum(cosines, owners):
    """The sum of R@1, R@5, R@10 of both directions."""
    t2i = [int((cosines[:, text] > cosines[owner, text]).sum()) for text, owner in enumerate(owners)]
    i2t = [int((row > row[owners == image].max()).sum()) for image, row in enumerate(cosines)]
    return sum(float(np.mean(np.array(ranks) < cut)) for ranks in (t2i, i2t) for cut in (1, 5, 10))


def test_untrained_it_is_the_mean_of_the_cosines(settings, joint):
    result = train(settings(epochs=0, name="a"))
    expected, owners = mean_cosines(joint)
    assert result["val_rsum"] == result["zero_shot_val_rsum"] == pytest.approx(naive_rsum(expected, owners), abs=1e-9)
    cache, head = open_features(joint), load_head(result["run"])
    images, texts = (cache.read(side, cache.rows(side, split="val")) for side in ("image", "text"))
    np.testing.assert_allclose(head.embed_images(images) @ head.embed_texts(texts).T, expected, atol=1e-6)


def test_a_training_learns_across_the_members(settings, joint):
    result = train(settings(loss="infonce", keep="last"))
    weight = load_file(Path(result["run"]) / "head.safetensors")["image_weight"]
    start = open_features(joint).projections["image/weight"]
    assert weight.shape == start.shape == (24 + 1 + 10, 12 + 6)
    assert (start[:25, 12:] == 0).all()
    assert (weight.numpy()[:25, 12:] != 0).all()


@pytest.mark.parametrize("changes", [{}, {"head": "gated", "hidden": 8, "loss": "infonce"}, {"init": "cca"}], ids=str)
def test_an_interrupted_training_resumes_bit_for_bit(settings, changes):
    def made(folder):
        lines = [line.rpartition(",")[0] for line in (Path(folder) / "history.csv").read_text().splitlines()]
        tensors = load_file(Path(folder) / "head.safetensors")
        return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, lines

    whole = train(settings(name="whole", **changes))["run"]
    config = settings(name="cut", **changes)
    with pytest.raises(KeyboardInterrupt):
        train(config, on_progress=StopAfter(3))
    with contextlib.suppress(KeyboardInterrupt):
        resume(config.runs_dir / "cut", on_progress=StopAfter(2))
    resume(config.runs_dir / "cut")
    assert made(whole) == made(config.runs_dir / "cut")


def test_features_on_disk_in_memory_and_on_the_device_train_the_same(settings):
    runs = [train(settings(features=place, name=place))["run"] for place in ("device", "host", "disk")]
    heads = [load_file(Path(run) / "head.safetensors") for run in runs]
    for head in heads[1:]:
        assert all(torch.equal(head[name], heads[0][name]) for name in heads[0])


@pytest.mark.parametrize("init", ["procrustes", "ridge", "cca", "random"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_every_start_and_head_takes_it(settings, init, head):
    result = train(settings(init=init, head=head, epochs=1))
    assert np.isfinite(result["val_rsum"])


def test_a_run_of_a_sweep_is_the_run_alone(settings, joint, tmp_path):
    axes = {"lr": "3e-3,1e-2", "epochs": "6", "batch_size": "8"}
    swept = sweep(SweepConfig(joint, axes=axes, seeds=2, name="s", runs_dir=tmp_path / "runs"))
    run = next(entry for entry in Path(swept["sweep"]).iterdir() if (entry / "head.safetensors").exists())
    config = json.loads((run / "config.json").read_text())["config"]
    assert config["cache"] == joint
    alone = train(settings(**{name: config[name] for name in ("lr", "seed")}, name="alone"))["run"]
    one, two = (load_file(Path(folder) / "head.safetensors") for folder in (run, alone))
    # A stack rounds its products in another order, on one cache too.
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in two)


@pytest.mark.ci
def test_every_command_of_stage_2_takes_it(run, tmp_path):
    write_members(tmp_path)

    def call(command):
        status, out, err = run(*shlex.split(command))
        assert status == 0, err
        return out

    shown = call("info a.h5,b.h5")
    assert "encoder 1 + encoder 2" in shown
    assert "image 24 to 12, with bias" in shown
    assert "image 10 to 6" in shown
    assert "image 35 to 18; text 31 to 18" in shown
    assert "a.h5,b.h5 is sound." in call("verify a.h5,b.h5")
    call("train --cache a.h5,b.h5 --epochs 3 --name joint")
    call("train --cache a.h5 --epochs 3 --name one")
    call("eval --head runs/one")
    assert "encoder 1 + encoder 2" in call("eval --head runs/joint --wise-ft 0.5")
    assert "rsum" in call("compare runs/one runs/joint")
    call("failures --head runs/joint")
    call("report runs/joint --out page.html")
    call("sweep --cache a.h5,b.h5 --lr 1e-3,1e-2 --epochs 2 --seeds 2 --name s")
    call("eval --zero-shot --cache a.h5,b.h5 --out zero.json")
    call("embed a.h5,b.h5 --head runs/joint --out e.npy")
    cache, head = open_features("a.h5,b.h5"), load_head("runs/joint")
    expected = head.embed_images(cache.read("image", cache.rows("image")))
    np.testing.assert_allclose(np.load("e.images.npy"), expected, atol=1e-6)
    rows = [json.loads(line) for line in Path("e.texts.jsonl").read_text().splitlines()]
    assert [row["caption"] for row in rows] == cache.captions


@pytest.mark.parametrize(
    "command",
    [
        "search a.h5,b.h5 caption",
        "serve a.h5,b.h5",
        "export runs/joint --to head --out x",
        "export runs/joint --to clip --out x",
    ],
)
def test_what_needs_one_encoder_says_what_can_be_done(run, tmp_path, command):
    write_members(tmp_path)
    train(TrainConfig("a.h5,b.h5", epochs=0, name="joint"))
    status, _, err = run(*shlex.split(command))
    assert status == 1
    assert err.splitlines()[-1] == (
        "error: a.h5,b.h5 is 2 caches side by side, and a head of theirs cannot stand behind one encoder; write the "
        "embeddings of its images and captions with clipret embed, or take a run on one cache."
    )


def test_new_images_and_captions_are_refused(settings):
    run = train(settings(epochs=0))["run"]
    with pytest.raises(ExportError, match="is 2 caches side by side"):
        open_run(run)


def test_a_head_that_reads_tokens_is_refused(settings, joint):
    with pytest.raises(CacheError) as refused:
        train(settings(head="block"))
    assert str(refused.value) == (
        f"{joint} is 2 caches side by side, of which a head of kind block cannot read tokens; give one of them with "
        f"--cache, or another --head."
    )


def test_a_member_that_changed_since_is_refused(settings, joint, tmp_path):
    run = train(settings(epochs=2, name="a"))["run"]
    with pytest.raises(KeyboardInterrupt):
        train(settings(name="cut"), on_progress=StopAfter(2))
    before, path = open_features(joint).fingerprint[:12], tmp_path / "b.h5"
    path.unlink()
    write_member(path, member(seed=3, dims=(10, 14, 6), shuffled=True))
    mark = open_features(joint).fingerprint[:12]
    with pytest.raises(CacheMismatchError) as refused:
        evaluate(EvalConfig(head=run))
    assert str(refused.value) == (
        f"{joint} is not the cache that {run} was trained on: its fingerprint is {mark}, the run's {before}; give the "
        f"one to measure with --cache."
    )
    with pytest.raises(CacheMismatchError, match=r"is not the cache that .* was made with"):
        resume(tmp_path / "runs" / "cut")
    path.unlink()
    with pytest.raises(CacheError) as refused:
        evaluate(EvalConfig(head=run))
    assert str(refused.value) == (
        f"there is no cache at {path}, where it was when {run} was trained; give its path with --cache FILE."
    )


def test_a_head_of_members_in_another_order_is_refused(settings, joint):
    run = train(settings(epochs=0))["run"]
    other = ",".join(reversed(joint.split(",")))
    with pytest.raises(HeadError, match=r"does not fit the widths|was trained on features of model"):
        evaluate(EvalConfig(head=run, cache=other))


def test_it_is_measured_on_other_caches_of_the_same_encoders(settings, joint, tmp_path):
    run = train(settings(epochs=1))["run"]
    moved = [str(shutil.copy(path, tmp_path / f"moved-{Path(path).name}")) for path in joint.split(",")]
    there, here = (
        evaluate(EvalConfig(head=run, cache=cache, out=tmp_path / "m.json"))["results"]
        for cache in (",".join(moved), None)
    )
    assert there == here
