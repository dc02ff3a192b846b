"""Run folders: what begins in them, one at a time, and what a run's records may be."""

import json
import os
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from clipret import EvalConfig, TrainConfig, evaluate, runs, train
from clipret.config.sweeps import SweepConfig
from clipret.errors import RunError, UsageError
from clipret.machine.files import replaced
from clipret.machine.tensors import write_tensors
from clipret.retrieval.ranks_file import read_rankings
from clipret.runs import locked, make_run
from clipret.sweeps import resume_sweep, sweep
from clipret.training import repeated_config, resume
from tests.conftest import StopAfter
from tests.helpers import system


@pytest.fixture
def settings(cache_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"cache": cache_path, "epochs": 4, "batch_size": 8, "lr": 3e-3, "name": "t"}

    def make(**changes):
        return TrainConfig(**(values | changes))

    return make


def refusal(action, *arguments, error=RunError, **options):
    with pytest.raises(error) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def full(monkeypatch, name):
    """A disk on which there is no room for files of that name."""
    real = Path.open

    def opened(path, mode="r", *arguments, **options):
        if path.name.startswith(name) and "w" in mode:
            raise OSError(28, "No space left on device", str(path))
        return real(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)


def full_message(run):
    return (
        f"cannot write {run}: No space left on device; nothing was trained yet. Fix that, then run the same "
        f"command again."
    )


def test_a_run_that_cannot_be_begun_leaves_nothing_behind(settings, monkeypatch):
    with monkeypatch.context() as patch:
        full(patch, "config.json")
        assert refusal(train, settings()) == full_message("runs/t")
    assert list(Path("runs").iterdir()) == []
    assert train(settings())["run"] == "runs/t"


def test_a_run_that_cannot_be_begun_leaves_nothing_behind_whatever_file_it_is(settings, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("clipret.training.record.Record.begin", fail)
        assert refusal(train, settings()) == full_message("runs/t")
    assert not Path("runs/t").exists()


def test_a_sweep_that_cannot_be_begun_leaves_nothing_behind(cache_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = SweepConfig(cache_path, name="s", axes={"epochs": 1}, seeds=1, device="cpu")
    with monkeypatch.context() as patch:
        full(patch, "sweep.json")
        assert refusal(sweep, config) == full_message("runs/s")
    assert list(Path("runs").iterdir()) == []
    assert sweep(config)["sweep"] == "runs/s"


def test_a_disk_that_is_full_at_the_first_file_of_a_run_is_one_line(settings, tmp_path):
    with system.small_disk(tmp_path / "disk", megabytes=1) as disk:
        with pytest.raises(OSError, match="No space"):
            (disk / "fill").write_bytes(bytes(1 << 21))
        assert refusal(train, settings(runs_dir=disk / "runs")) == full_message(disk / "runs" / "t")
        (disk / "fill").unlink()
        assert train(settings(runs_dir=disk / "runs"))["run"] == str(disk / "runs" / "t")


def test_a_folder_in_which_nothing_was_finished_is_taken_and_any_other_is_not(tmp_path):
    folder = tmp_path / "t"
    assert make_run(tmp_path, name="t", kind="") == folder
    (folder / "config.json.part").write_text("{")
    (folder / ".lock").touch()
    assert make_run(tmp_path, name="t", kind="") == folder
    (folder / "config.json").write_text("{}")
    message = f"{folder} exists already; give another --name, or delete it."
    assert refusal(make_run, tmp_path, name="t", kind="") == message
    (tmp_path / "file").touch()
    assert refusal(make_run, tmp_path, name="file", kind="") == message.replace(str(folder), f"{tmp_path}/file")


def test_what_a_kill_left_is_replaced_and_not_written_into(tmp_path):
    (tmp_path / "other").write_text("kept")
    (tmp_path / "a.part").symlink_to(tmp_path / "other")
    with replaced(tmp_path / "a") as unfinished:
        unfinished.write_text("new")
    assert ((tmp_path / "a").read_text(), (tmp_path / "other").read_text()) == ("new", "kept")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "other"]


BUSY = "another process is training {}; wait for it, or train a run of another --name."


def test_a_run_is_trained_by_one_at_a_time(settings):
    with pytest.raises(KeyboardInterrupt):
        train(settings(), on_progress=StopAfter(2))
    assert not Path("runs/t/.lock").exists()
    with locked(Path("runs/t")):
        assert refusal(resume, "runs/t") == BUSY.format("runs/t")
        assert refusal(train, settings()) == "runs/t exists already; give another --name, or delete it."
    assert resume("runs/t")["epochs"] == 4
    assert not Path("runs/t/.lock").exists()


def test_while_a_run_is_trained_nobody_else_trains_it(settings):
    said = []

    def report(progress):
        if not said:
            said.append(refusal(resume, "runs/t"))

    train(settings(), on_progress=report)
    assert said == [BUSY.format("runs/t")]


def test_two_that_begin_one_run_at_once_are_told_apart(settings):
    """The other has made the folder, and has written nothing yet."""
    folder = make_run(Path("runs"), name="t", kind="")
    with locked(folder):
        assert refusal(train, settings()) == BUSY.format("runs/t")
    assert train(settings())["run"] == "runs/t"


def test_trainings_without_a_name_have_folders_of_their_own(settings):
    others = []

    def report(progress):
        if not others:
            others.append(train(settings(name=None))["run"])

    assert train(settings(name=None), on_progress=report)["run"] == "runs/0001-margin-linear"
    assert others == ["runs/0002-margin-linear"]


def test_while_a_sweep_runs_nobody_goes_on_with_it_or_with_its_runs(cache_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []

    def report(progress):
        if not said:
            run = next(path.parent for path in sorted(Path("runs/s").glob("*/config.json")))
            said.extend([refusal(resume_sweep, "runs/s"), refusal(resume, run)])

    config = SweepConfig(cache_path, name="s", axes={"epochs": 1}, seeds=1, device="cpu")
    sweep(config, on_progress=report)
    assert said == [BUSY.format("runs/s")] * 2
    assert not list(Path("runs").rglob(".lock"))
    assert resume(next(Path("runs/s").glob("*/config.json")).parent)["epochs"] == 1


def spoil(path, *keys, to):
    """Write another value into a JSON file."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("keys", "value", "error", "text"),
    [
        (["cache"], None, RunError, "cannot be read: cache is null; expected an object; train the run again with this"),
        (["cache", "path"], 7, RunError, "cannot be read: cache.path is 7; expected text; train the run again with"),
        (["cache", "fingerprint"], [], RunError, "cannot be read: cache.fingerprint is a list; expected text; train"),
        (
            ["format"],
            9,
            RunError,
            "cannot be read: it is of format 9; this clipret reads format 1; train the run again",
        ),
        (["config"], [], RunError, "cannot be read: config is a list; expected an object; train the run again with"),
        (["config", "cache"], None, UsageError, ": --cache is None; expected a path."),
        (["config", "cache"], "a\0b", UsageError, ": --cache has a NUL character, which no path has."),
        (["config", "cache"], "\ud800", UsageError, ": --cache has the character '\\ud800', which no path has."),
        (["config", "lr"], "fast", UsageError, ": --lr is fast; expected a number."),
        (["config", "lr"], True, UsageError, ": --lr is True; expected a number."),
        (["config", "epochs"], 1.5, UsageError, ": --epochs is 1.5; expected a whole number."),
        (["config", "epochs"], [1], UsageError, ": --epochs is [1]; expected a whole number."),
        (["config", "epochs"], 10**40, UsageError, f": --epochs is {10**40}; expected at most 1,000,000."),
        (["config", "log"], [1], UsageError, ": --log is [1]; expected a list."),
        (["config", "log"], "wandb", UsageError, ": --log is wandb; expected a list."),
        (["config", "margin"], None, UsageError, ": --margin is None; expected a number or text."),
        (["config", "temperature"], {}, UsageError, ": --temperature is {}; expected a number or none."),
        (["config", "speed"], 1, RunError, "has settings that this clipret does not know: speed; train a new"),
    ],
)
def test_a_config_of_other_types_is_said_with_the_field(settings, keys, value, error, text):
    train(settings(epochs=0))
    path = Path("runs/t/config.json")
    spoil(path, *keys, to=value)
    message = refusal(repeated_config, path, error=error)
    assert message.startswith(f"{path}{text if text.startswith(':') else f' {text}'}")
    if keys[-1] != "log":
        assert refusal(resume, "runs/t", error=error) == message


@pytest.mark.parametrize(
    ("keys", "value", "text"),
    [
        (["val_rsum"], "high", "val_rsum is 'high'; expected a number or null"),
        (["remarks"], None, "remarks is null; expected a list"),
        (["remarks"], [None], "remarks.0 is null; expected text"),
        (["epochs"], -1, "epochs is -1; expected 0 or more"),
        (["seconds"], None, "seconds is null; expected a number"),
    ],
)
def test_a_result_of_other_types_is_said_with_the_way_on(settings, keys, value, text):
    train(settings(epochs=0))
    path = Path("runs/t/result.json")
    spoil(path, *keys, to=value)
    assert refusal(resume, "runs/t") == (
        f"{path} cannot be read: {text}; delete it, and train the run again with: clipret train --resume runs/t"
    )
    path.unlink()
    assert resume("runs/t")["epochs"] == 0


def metadata(**changes):
    progress = {"epoch": 1, "kept_epoch": 1, "best": 1.0, "stale": 0, "seconds": 0.1} | changes
    return {"format": "2", "progress": json.dumps(progress)}


CHECKPOINTS = {
    "another format": (lambda tensors: tensors, {"format": "1", "progress": "{}"}, "it is no checkpoint of format 2"),
    "no progress": (lambda tensors: tensors, {"format": "2"}, "it is no checkpoint of format 2"),
    "progress of another type": (
        lambda tensors: tensors,
        {"format": "2", "progress": "[]"},
        "it is a list; expected an object",
    ),
    "an epoch in words": (lambda tensors: tensors, metadata(epoch="1"), "epoch is '1'; expected a whole number"),
    "an epoch that has no line": (
        lambda tensors: tensors,
        metadata(epoch=10**18),
        "history.csv beside it has not one line for each of its epochs",
    ),
    "a best that is none": (lambda tensors: tensors, metadata(best=[]), "best is a list; expected a number or null"),
    "other shapes": (
        lambda tensors: {**tensors, "weight/image_weight": tensors["weight/image_weight"][:, :3].clone()},
        metadata(),
        "it is of a run with other settings than config.json's",
    ),
    "other names": (
        lambda tensors: {"x": tensors["count"]},
        metadata(),
        "it is of a run with other settings than config.json's",
    ),
    "other types": (
        lambda tensors: {name: tensor.double() for name, tensor in tensors.items()},
        metadata(),
        "count is kept as F64; expected F32",
    ),
}


@pytest.mark.parametrize(("change", "about", "text"), CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_a_checkpoint_of_another_run_is_refused(settings, change, about, text):
    with pytest.raises(KeyboardInterrupt):
        train(settings(), on_progress=StopAfter(2))
    path = Path("runs/t/checkpoint.safetensors")
    write_tensors(path, change(load_file(path)), metadata=about)
    assert refusal(resume, "runs/t") == (
        f"{path} cannot be read: {text}; delete it, and the run starts again from its first epoch."
    )
    path.unlink()
    assert resume("runs/t")["epochs"] == 4


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda text: "", "has not one line for each of its epochs"),
        (lambda text: text.replace("epoch", "x", 1), "has not one line for each of its epochs"),
        (lambda text: text.splitlines()[0] + "\n1\n", "has not one line for each of its epochs"),
        (lambda text: text.rstrip("\n") + ",7\n", "has not one line for each of its epochs"),
        (lambda text: text.replace("\n", '\n"', 1), "is no CSV file (unexpected end of data)"),
    ],
)
def test_a_history_that_is_not_the_checkpoints_is_refused(settings, change, text):
    with pytest.raises(KeyboardInterrupt):
        train(settings(), on_progress=StopAfter(2))
    path = Path("runs/t/history.csv")
    path.write_text(change(path.read_text()))
    assert refusal(resume, "runs/t") == (
        f"runs/t/checkpoint.safetensors cannot be read: history.csv beside it {text}; delete it, and the run starts "
        f"again from its first epoch."
    )


def test_a_history_that_is_no_file_is_refused(settings):
    with pytest.raises(KeyboardInterrupt):
        train(settings(), on_progress=StopAfter(2))
    Path("runs/t/history.csv").unlink()
    system.make_pipe("runs/t/history.csv")
    assert refusal(resume, "runs/t") == (
        "runs/t/checkpoint.safetensors cannot be read: history.csv beside it cannot be read: it is a pipe, not a file; "
        "delete it, and the run starts again from its first epoch."
    )


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_record_that_is_no_file_is_not_waited_for(settings, name):
    train(settings(epochs=0))
    Path("runs/t", name).unlink()
    system.make_pipe(Path("runs/t", name))
    assert refusal(resume, "runs/t").startswith(f"runs/t/{name} cannot be read: it is a pipe, not a file; ")


def test_equal_trainings_have_equal_files(settings):
    for name in ("t", "u"):
        train(settings(name=name))
    assert Path("runs/t", runs.HEAD).read_bytes() == Path("runs/u", runs.HEAD).read_bytes()


def test_a_run_is_gone_on_with_from_within_its_folder(settings, monkeypatch):
    train(settings(epochs=0))
    folder = Path("runs/t").absolute()
    monkeypatch.chdir(folder)
    assert resume(".")["run"] == str(folder)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text there")
def test_a_path_that_is_no_text_is_kept_and_read_again(settings, cache_path):
    """Linux has names of any bytes; Python holds those that are no UTF-8 as halves of surrogate pairs."""
    cache = cache_path.rename(os.fsdecode(b"caf\xe9.h5"))
    result = train(settings(cache=cache, epochs=0))
    assert repeated_config("runs/t").cache == cache
    assert resume("runs/t") == result
    evaluate(EvalConfig(head="runs/t", resamples=0))
    assert read_rankings(Path("runs/t/ranks.safetensors")).cache["path"] == str(cache)
