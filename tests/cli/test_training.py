import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipret import TrainConfig, recipe_settings
from tests.conftest import contents, write_cache

TRAIN = ("train", "--cache", "made.h5", "--epochs", 3, "--lr", 1e-2, "--batch-size", 8)


def equal_heads(first, second):
    heads = [load_file(Path("runs", name, "head.safetensors")) for name in (first, second)]
    return heads[0].keys() == heads[1].keys() and all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_a_run_is_repeated_from_its_config_and_changed_by_further_options(run, tmp_path):
    write_cache(tmp_path / "made.h5")
    assert run(*TRAIN, "--name", "first", "--loss", "infonce", "--train", "image", "-q")[0] == 0
    assert run("train", "--config", "runs/first/config.json", "-q") == (0, "runs/0001-infonce-linear\n", "")
    assert equal_heads("first", "0001-infonce-linear")
    status, out, _ = run("train", "--config", "runs/first", "--seed", 1, "--train", "both", "--json")
    assert status == 0
    config = json.loads(Path(json.loads(out)["run"], "config.json").read_text())["config"]
    assert (config["seed"], config["train"], config["loss"], config["lr"]) == (1, "both", "infonce", 1e-2)
    assert not equal_heads("first", Path(json.loads(out)["run"]).name)


def test_a_config_of_another_cache_is_refused_unless_the_cache_is_given(run, tmp_path):
    write_cache(tmp_path / "made.h5")
    run(*TRAIN, "--name", "first", "-q")
    write_cache(tmp_path / "other.h5", contents(inputs={**contents().inputs, "dataset": "other"}))
    (tmp_path / "other.h5").rename(tmp_path / "made.h5")
    status, _, err = run("train", "--config", "runs/first/config.json")
    assert status == 1
    assert err.startswith("error: made.h5 is not the cache that runs/first/config.json was made with: its fingerprint ")
    assert err.endswith("; to train on it all the same, give it with --cache.\n")
    assert run("train", "--config", "runs/first/config.json", "--cache", "made.h5", "-q")[0] == 0


def test_a_config_with_unknown_settings_is_said(run, tmp_path):
    write_cache(tmp_path / "made.h5")
    run(*TRAIN, "--name", "first", "-q")
    path = tmp_path / "runs" / "first" / "config.json"
    record = json.loads(path.read_text())
    record["config"]["colour"] = "red"
    path.write_text(json.dumps(record))
    status, _, err = run("train", "--config", "runs/first/config.json")
    assert status == 1
    assert err == (
        "error: runs/first/config.json has settings that this clipret does not know: colour; train a new run.\n"
    )
    del record["config"]["colour"]
    record["config"]["lr"] = -1
    path.write_text(json.dumps(record))
    assert run("train", "--config", "runs/first/config.json")[2] == (
        "error: runs/first/config.json: --lr is -1; expected a value above 0, at most 1000.\n"
    )


def test_a_head_is_measured_with_what_its_file_holds(run, tmp_path):
    write_cache(tmp_path / "made.h5")
    more = ("--head", "adapter", "--train", "text", "--adapter-ratio", 0.9, "--epochs", 30, "--keep", "last", "-q")
    assert run(*TRAIN, *more)[0] == 0
    status, out, _ = run("eval", "--json")
    assert status == 0
    results = json.loads(out)["results"]
    assert results["trained"] != results["zero-shot"]


def test_epochs_and_remarks_are_shown(run, tmp_path):
    write_cache(tmp_path / "made.h5")
    status, out, err = run(*TRAIN[:-1], 1000)
    assert status == 0
    assert "Note: --batch-size 1,000 is more than the 36 training images; every step takes all of them." in out
    assert "epochs 3/3" in err


@pytest.mark.ci
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_tells_the_command_that_goes_on_and_that_does(run, tmp_path, number):
    write_cache(tmp_path / "made.h5")
    words = ["train", "--cache", "made.h5", "--epochs", "100000", "--batch-size", "8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "clipret", *words],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end, folder = time.monotonic() + 120, tmp_path / "runs" / "0001-margin-linear"
    while not (folder / "checkpoint.safetensors").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert err.splitlines()[-1] == (
        f"error: {word}; its best head so far is kept; go on with: clipret train --resume runs/0001-margin-linear"
    )
    # To be done within the test, it has fewer epochs from here on.
    path = folder / "config.json"
    record = json.loads(path.read_text())
    done = len((folder / "history.csv").read_text().splitlines()) - 2
    record["config"]["epochs"] = done + 3
    path.write_text(json.dumps(record))
    status, out, err = run("train", "--resume", "runs/0001-margin-linear")
    assert status == 0, err
    assert out.startswith("runs/0001-margin-linear: ")
    assert json.loads((folder / "result.json").read_text())["epochs"] == done + 3
    assert run("eval", "-q")[0] == 0


def test_the_next_command_measures_the_run_that_was_trained(run, tmp_path):
    write_cache(tmp_path / "made.h5")
    words = ("train", "--cache", "made.h5", "--epochs", "1")
    assert run(*words)[1].splitlines()[-1] == "Next: clipret eval"
    assert run(*words, "--runs-dir", "else where")[1].splitlines()[-1] == (
        "Next: clipret eval --head 'else where/0001-margin-linear'"
    )
    assert run(*words, "--name", "b")[1].splitlines()[-1] == "Next: clipret eval"
    assert run("train", "--resume", "runs/0001-margin-linear")[1].splitlines()[-1] == (
        "Next: clipret eval --head runs/0001-margin-linear"
    )


def settings_of_run(out):
    return json.loads(Path(json.loads(out)["run"], "config.json").read_text())["config"]


def test_a_recipe_is_plain_settings_that_other_options_change(run, tmp_path):
    write_cache(tmp_path / "made.h5")
    small = ("--cache", "made.h5", "--epochs", 1, "--batch-size", 8, "--json")
    status, out, _ = run("train", *small, "--recipe", "strong", "--hidden", 5)
    assert status == 0
    settings = settings_of_run(out)
    expected = recipe_settings("strong") | {"epochs": 1, "batch_size": 8, "hidden": 5}
    assert {name: settings[name] for name in expected} == expected
    assert "recipe" not in settings
    # What makes no difference beside what was asked for instead falls away.
    status, out, err = run("train", *small, "--recipe", "strong", "--head", "linear", "--loss", "margin")
    assert (status, "is for --" in err) == (0, False)
    settings = settings_of_run(out)
    assert (settings["head"], settings["loss"], settings["lr"]) == ("linear", "margin", recipe_settings("strong")["lr"])
    assert TrainConfig(**settings).hidden == TrainConfig.hidden


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--cache", "made.h5", "--recipe", "weak"), "--recipe is 'weak'; expected one of: strong."),
        (
            ("--config", "runs/first", "--recipe", "strong"),
            "--recipe and --config both say what to begin with; leave one of them out.",
        ),
        (
            ("--cache", "made.h5", "--recipe", "strong", "--margin", "0.2"),
            "--margin is for --loss margin and triplet; the loss is infonce.",
        ),
    ],
)
def test_a_recipe_that_cannot_be_is_one_line(run, tmp_path, options, expected):
    write_cache(tmp_path / "made.h5")
    status, out, err = run("train", *options)
    assert (status, out) == (2, "")
    assert err.strip() == f"error: {expected}"
