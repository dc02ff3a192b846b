"""User-defined losses and heads: everything works as with the built-in ones."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipret import (
    CompareConfig,
    EvalConfig,
    FailuresConfig,
    SweepConfig,
    TrainConfig,
    compare,
    evaluate,
    find_failures,
    resume,
    sweep,
    train,
)
from clipret.config import to_dict
from clipret.errors import ClipretError, HeadError, RunError, UsageError
from clipret.sweeps import resume_sweep
from clipret.training import repeated_config, train_many
from tests.conftest import StopAfter
from tests.helpers import own
from tests.training.test_resume import checkpoint_time, files


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch, tmp_path):
    own.forget(monkeypatch, tmp_path / "state")


@pytest.fixture
def words(tmp_path):
    return own.write(tmp_path)


@pytest.fixture
def settings(cache_path, tmp_path):
    values = {"cache": cache_path, "runs_dir": tmp_path / "runs", "epochs": 5, "batch_size": 8, "lr": 3e-3}

    def make(**changes):
        return TrainConfig(**(values | changes))

    return make


OURS = [
    {},
    {"loss": "infonce", "schedule": "cosine", "warmup": 3},
    {"loss": "sigmoid", "clip_norm": 0.1},
    {"loss": "triplet", "ema": 0.8},
    {"margin": "auto:0.8"},
    {"margin": "0.4:0.1", "captions_per_step": "all"},
    {"head": "adapter", "train": "text", "hard_negatives": 1},
]
PLAIN_HEAD = """
from torch import nn


class MLP(nn.Module):
    def __init__(self, projections):
        super().__init__()
        self.image_weight = nn.Parameter(projections["image/weight"])
        self.text_weight = nn.Parameter(projections["text/weight"])

    def embed_images(self, features):
        return features @ self.image_weight

    def embed_texts(self, features):
        return features @ self.text_weight
"""
OUR_MARGIN = """
def soft_margin(similarities, matches):
    ones, others = similarities[matches], similarities[~matches]
    return ((1 - ones) / 2).mean() + ((others - 0.1).clamp_min(0) / 2).mean()
"""


@pytest.mark.parametrize("changes", OURS[:-1], ids=lambda changes: " ".join(map(str, changes.values())) or "default")
def test_a_linear_head_written_anew_is_trained_as_ours_is(settings, tmp_path, changes):
    word = own.write(tmp_path, head=PLAIN_HEAD)["head"]
    runs = [train(settings(keep="last", **more, **changes))["run"] for more in ({}, {"head": word})]
    ours, theirs = (load_file(f"{run}/head.safetensors") for run in runs)
    for name in ("image_weight", "text_weight"):
        torch.testing.assert_close(theirs[f"module.{name}"], ours[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{}, OURS[-1], {"keep_neighbours": 0.5}, {"keep_neighbours": 0.5, "train": "image"}],
    ids=["linear", "adapter", "neighbours", "neighbours of one side"],
)
def test_a_loss_written_anew_trains_our_heads_as_ours_does(settings, tmp_path, changes):
    word = own.write(tmp_path, loss=OUR_MARGIN)["loss"]
    runs = [train(settings(keep="last", **more, **changes))["run"] for more in ({}, {"loss": word})]
    ours, theirs = (load_file(f"{run}/head.safetensors") for run in runs)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name].float(), tensor.float(), rtol=1e-4, atol=1e-5)


def test_neighbours_by_features_make_no_difference_to_a_head_of_ones_own(settings, tmp_path):
    word = own.write(tmp_path, head=PLAIN_HEAD)["head"]
    runs = [train(settings(keep="last", head=word, keep_neighbours=weight))["run"] for weight in (0.0, 0.5)]
    plain, kept = (load_file(f"{run}/head.safetensors") for run in runs)
    assert all(torch.equal(kept[name], plain[name]) for name in plain)


def test_a_run_keeps_the_code_and_its_sha256_and_its_best_epoch(settings, words, tmp_path):
    result = train(settings(**words))
    run = Path(result["run"])
    assert run.name == "0001-soft_margin-MLP"
    assert (run / "own_loss.py").read_text() == own.SOFT_MARGIN
    assert (run / "own_head.py").read_text() == own.MLP
    record = json.loads((run / "config.json").read_text())
    assert record["config"]["head"] == words["head"]
    assert record["code"]["head"]["path"] == str(tmp_path / "my_heads.py")
    assert {len(code["sha256"]) for code in record["code"].values()} == {64}
    assert result["val_rsum"] > result["zero_shot_val_rsum"]
    history = (run / "history.csv").read_text().splitlines()
    assert len(history) == 7
    names = load_file(run / "head.safetensors").keys()
    assert {"module.image", "module.norm.running_mean", "module.norm.num_batches_tracked"} <= names


def test_the_same_objects_are_taken_from_python(settings, tmp_path, monkeypatch):
    words = own.write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import my_heads
    import my_losses

    try:
        named = train(settings(name="named", **words))["run"]
        own.forget(monkeypatch, tmp_path / "state")
        taken = train(settings(name="taken"), loss=my_losses.soft_margin, head=my_heads.MLP)["run"]
    finally:
        del sys.modules["my_heads"], sys.modules["my_losses"]
    assert files(taken) == files(named)
    assert json.loads(Path(taken, "config.json").read_text())["config"]["loss"] == words["loss"]
    assert train(settings(), loss="infonce")["run"].endswith("0001-infonce-linear")


KINDS = [
    {},
    {"ema": 0.9, "clip_norm": 0.05, "patience": 3},
    {"captions_per_step": "all", "steps": 20},
    {"loss": "infonce"},
]


@pytest.mark.parametrize("changes", KINDS, ids=lambda changes: " ".join(map(str, changes.values())) or "default")
def test_a_training_interrupted_after_any_epoch_resumes_bit_for_bit(settings, words, changes):
    """With dropout, whose draws follow from the seed and the step, and running statistics."""
    whole = train(settings(name="whole", **(words | changes)))["run"]
    config = settings(name="cut", **(words | changes))
    torch.manual_seed(7)
    with pytest.raises(KeyboardInterrupt):
        train(config, on_progress=StopAfter(3))
    torch.manual_seed(8)
    assert files(resume(config.runs_dir / "cut")["run"]) == files(whole)


CHILD = """
import json, sys
import torch
from clipret import TrainConfig, train
from clipret.training import record
torch.set_num_threads(1)
record._SAVE_EVERY_SECONDS = 0
train(TrainConfig(**json.loads(sys.argv[1])))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.ci
def test_a_killed_training_resumes_bit_for_bit(settings, words):
    whole = train(settings(name="whole", epochs=40, **words))["run"]
    config, generator = settings(name="killed", epochs=40, **words), random.Random(0)
    folder = config.runs_dir / "killed"
    process = subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(to_dict(config))])
    end = time.monotonic() + 60
    while not checkpoint_time(folder) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(generator.uniform(0, 0.05))
    process.kill()
    process.wait()
    assert not (folder / "result.json").exists()
    resume(folder)
    assert files(folder) == files(whole)


def test_a_sweep_trains_them_one_by_one_and_resumes(settings, cache_path, words, tmp_path):
    axes = {"loss": [words["loss"], "margin"], "head": [words["head"], "linear"], "epochs": [2], "batch_size": [16]}
    config = SweepConfig(cache_path, runs_dir=tmp_path / "runs", name="s", axes=axes, seeds=(0, 1), keep_heads=4)
    with pytest.raises(KeyboardInterrupt):
        sweep(config, on_progress=StopAfter(9))
    result = resume_sweep(tmp_path / "runs" / "s")
    assert result["runs"] == 8
    names = sorted(path.name for path in (tmp_path / "runs" / "s").iterdir() if path.is_dir())
    assert names[0] == "0001-soft_margin-MLP-seed0"
    alone = train(settings(epochs=2, batch_size=16, lr=TrainConfig.lr, seed=1, **words))
    assert files(alone["run"])[0] == files(tmp_path / "runs" / "s" / "0002-soft_margin-MLP-seed1")[0]


def test_a_sweep_whose_code_has_changed_is_not_resumed(cache_path, words, tmp_path):
    axes = {"loss": [words["loss"]], "epochs": [2]}
    with pytest.raises(KeyboardInterrupt):
        sweep(SweepConfig(cache_path, runs_dir=tmp_path / "runs", name="s", axes=axes), on_progress=StopAfter(2))
    (tmp_path / "my_losses.py").write_text(own.SOFT_MARGIN + "\n# another")
    with pytest.raises(RunError, match=r"my_losses.py has changed since .*/s was begun \(sha256 \w{12}, now \w{12}\);"):
        resume_sweep(tmp_path / "runs" / "s")


def test_heads_of_the_users_own_are_measured_and_compared(settings, words, cache_path):
    first, second = (train(settings(seed=seed, **words))["run"] for seed in (0, 1))
    report = evaluate(EvalConfig(head=Path(first), wise_ft=(0, 0.5, 1), resamples=0))
    assert report["results"]["wise-ft 1"] == report["results"]["trained"]
    assert report["results"]["wise-ft 0"] != report["results"]["trained"]
    assert "remarks" not in report
    evaluate(EvalConfig(head=Path(second), resamples=0))
    report = compare(CompareConfig(runs=(first, "zero-shot", second)))
    assert [len(group["runs"]) for group in report["groups"]] == [2, 1]
    assert find_failures(FailuresConfig(head=Path(first)))["heads"] == ["zero-shot", "trained"]


def test_a_head_whose_file_has_changed_is_named_and_measured_as_it_was_trained(settings, words, tmp_path):
    run = Path(train(settings(**words))["run"])
    before = evaluate(EvalConfig(head=run, resamples=0))
    (tmp_path / "my_heads.py").write_text("raise SystemExit('another head')")
    after = evaluate(EvalConfig(head=run, resamples=0))
    assert after["results"] == before["results"]
    (remark,) = after["remarks"]
    shas = [json.loads((run / "config.json").read_text())["code"]["head"]["sha256"][:12]]
    assert remark.startswith(f"{tmp_path}/my_heads.py has changed since {run} was trained (sha256 {shas[0]}, now ")
    assert remark.endswith("); the copy in the run's folder was used")
    (tmp_path / "my_heads.py").unlink()
    assert evaluate(EvalConfig(head=run, resamples=0))["results"] == before["results"]


def test_a_run_from_somebody_else_runs_nothing_until_it_is_allowed(settings, words, tmp_path, monkeypatch, cache_path):
    run = Path(train(settings(**words))["run"])
    with pytest.raises(KeyboardInterrupt):
        train(settings(name="cut", **words), on_progress=StopAfter(2))
    own.forget(monkeypatch, tmp_path / "other")
    monkeypatch.setattr("builtins.exec", None)
    calls = [
        lambda: evaluate(EvalConfig(head=run)),
        lambda: find_failures(FailuresConfig(head=run)),
        lambda: resume(run.parent / "cut"),
        lambda: repeated_config(run),
        lambda: train_many([settings(name="cut", **words)], going_on=True),
    ]
    for call in calls:
        with pytest.raises(UsageError, match=r"was never named by you on this machine, so it is not run; read it and"):
            call()


def test_a_run_resumes_from_its_copy_if_the_users_file_has_changed(settings, words, tmp_path):
    whole = train(settings(name="whole", **words))["run"]
    config = settings(name="cut", **words)
    with pytest.raises(KeyboardInterrupt):
        train(config, on_progress=StopAfter(3))
    (tmp_path / "my_losses.py").write_text("def soft_margin(similarities, matches):\n    return similarities.sum()\n")
    run = config.runs_dir / "cut"
    assert files(resume(run)["run"]) == files(whole)
    assert repeated_config(run, changes={"seed": 3}).loss == f"{run}/own_loss.py:soft_margin"
    (run / "own_loss.py").write_text("")
    with pytest.raises(RunError) as caught:
        repeated_config(run)
    sha256 = json.loads((run / "config.json").read_text())["code"]["loss"]["sha256"][:12]
    assert str(caught.value) == (
        f"neither {tmp_path}/my_losses.py nor {run}/own_loss.py is the file that {run} was trained with (sha256 "
        f"{sha256}); restore one of them, or train a new run."
    )


def test_a_head_without_its_code_is_refused(settings, words):
    run = Path(train(settings(**words))["run"])
    head, code = run / "head.safetensors", run / "own_head.py"
    source = code.read_text()
    code.write_text(source + "# more")
    with pytest.raises(HeadError, match=r"own_head.py is not the code that head .* was trained with: its sha256 is"):
        evaluate(EvalConfig(head=run))
    code.unlink()
    with pytest.raises(HeadError) as caught:
        evaluate(EvalConfig(head=run))
    assert str(caught.value) == f"head {head} needs its code, {code}, which cannot be read; restore it there."


WRONG_LOSSES = {
    "no such name": ("x = 1", "{file} has no soft_margin; it defines nothing."),
    "no function": ("soft_margin = 3", "{code} is int; expected a function of (similarities, matches)."),
    "another signature": (
        "def soft_margin(similarities): ...",
        "{code} failed, TypeError: soft_margin() takes 1 positional argument but 2 were given; it is called with "
        "(similarities, matches).",
    ),
    "an exception": (
        "def soft_margin(similarities, matches):\n    return similarities @ matches[:1]",
        "{code} failed, line 2: RuntimeError: ",
    ),
    "no tensor": (
        "def soft_margin(similarities, matches):\n    return 1.0",
        "{code} returned float; expected a scalar tensor, by torch operations on similarities (captions, images).",
    ),
    "a matrix": (
        "def soft_margin(similarities, matches):\n    return similarities",
        "{code} returned a tensor (3, 3) float32; expected a scalar tensor, by torch operations on similarities "
        "(captions, images).",
    ),
    "no gradient": (
        "def soft_margin(similarities, matches):\n    return similarities.detach().sum()",
        "{code} returned a tensor without a gradient; expected a scalar tensor, by torch operations on similarities "
        "(captions, images).",
    ),
}
WRONG_HEADS = {
    "no class": ("MLP = 3", "{code} is int; expected a class or function that makes a head."),
    "no module": (
        "class MLP:\n    def __init__(self, projections): ...",
        "{code} makes MLP; expected an nn.Module with methods embed_images and embed_texts.",
    ),
    "another constructor": (
        "class MLP:\n    def __init__(self): ...",
        "{code} failed, TypeError: MLP.__init__() takes 1 positional argument but 2 were given; it is called with one "
        "argument, projections.",
    ),
    "other names": (own.MLP.replace("embed_texts", "texts"), "{code} makes MLP; expected an nn.Module with methods "),
    "no rows": (
        own.MLP.replace("return features @ self.text", "return (features @ self.text).sum(1)"),
        "{code}.embed_texts returned a tensor (3,) float32; expected 3 rows of floating-point numbers, one for each "
        "feature.",
    ),
    "no tensor": (
        own.MLP.replace("return features @ self.text", "return None"),
        "{code}.embed_texts returned NoneType; expected 3 rows of floating-point numbers, one for each feature.",
    ),
    "two widths": (
        own.MLP.replace("return features @ self.text", "return (features @ self.text)[:, :7]"),
        "{code} embeds images in 12 numbers and texts in 7; expected equally many.",
    ),
    "an exception": (
        own.MLP.replace("return features @ self.text", "return features @ self.image"),
        "{code}.embed_texts failed, line 22: RuntimeError: ",
    ),
    "nothing to learn": (
        own.MLP.replace("nn.init.zeros_(self.layers[-1].weight)", "self.requires_grad_(False)"),
        "{code} makes a head without parameters that require gradients; nothing learns.",
    ),
}


@pytest.mark.parametrize(("text", "expected"), WRONG_LOSSES.values(), ids=WRONG_LOSSES)
def test_what_is_wrong_with_a_loss_is_one_line_and_leaves_no_run(settings, tmp_path, text, expected):
    word = own.write(tmp_path, loss=text)["loss"]
    with pytest.raises(ClipretError) as caught:
        train(settings(loss=word))
    expected = expected.format(code="my_losses.py:soft_margin", file=tmp_path / "my_losses.py")
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("text", "expected"), WRONG_HEADS.values(), ids=WRONG_HEADS)
def test_what_is_wrong_with_a_head_is_one_line_and_leaves_no_run(settings, tmp_path, text, expected):
    word = own.write(tmp_path, head=text)["head"]
    with pytest.raises(ClipretError) as caught:
        train(settings(head=word))
    assert str(caught.value).startswith(expected.format(code="my_heads.py:MLP"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"precision": "bf16"}, "--precision is bf16; a loss or a head of your own is trained in fp32."),
        ({"train": "image"}, "--train is image; that is for the built-in heads; leave --train out."),
        ({"init": "ridge"}, "--init is ridge; that is for the built-in heads; leave --init out."),
    ],
)
def test_settings_that_are_not_for_them_are_refused(settings, words, any_bfloat16, changes, expected):
    with pytest.raises(UsageError) as caught:
        train(settings(head=words["head"], **changes))
    assert str(caught.value) == expected


def test_a_loss_that_becomes_nan_ends_the_run_as_ours_do(settings, tmp_path):
    text = "def soft_margin(similarities, matches):\n    return similarities.mean() * float('nan')\n"
    with pytest.raises(
        ClipretError, match=r"^the loss is nan at step 1 \(epoch 1\), at a learning rate of 0.003; the run"
    ):
        train(settings(loss=own.write(tmp_path, loss=text)["loss"]))


def test_training_leaves_torchs_generator_as_it_was(settings, words):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(settings(**words))
    assert torch.equal(torch.rand(2), expected)


def test_tensors_that_two_names_share_are_trained_and_kept_once(settings, tmp_path, cache_path):
    """As when both sides share one layer after CLIP's projections."""
    text = own.MLP.replace("self.norm =", "self.again = self.shared = nn.Linear(width, width)\n        self.norm =")
    text = text.replace("return features @ self.text", "return self.again(features @ self.text)")
    run = Path(train(settings(head=own.write(tmp_path, head=text)["head"]))["run"])
    names = [name for name in load_file(run / "head.safetensors") if "again" in name or "shared" in name]
    assert len(names) == 2
    assert evaluate(EvalConfig(head=run, resamples=0))["results"]["trained"]
