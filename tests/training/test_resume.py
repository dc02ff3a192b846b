"""Interrupted trainings resume to the same bits as uninterrupted ones."""

import contextlib
import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from clipret import TrainConfig, train
from clipret.errors import CacheMismatchError, RunError
from clipret.machine.tensors import open_tensors, write_tensors
from clipret.training import record, resume, train_many
from tests.conftest import StopAfter, contents, write_cache
from tests.helpers import child_training


@pytest.fixture
def settings(cache_path, tmp_path):
    values = {"cache": cache_path, "runs_dir": tmp_path / "runs", "epochs": 8, "batch_size": 8, "lr": 3e-3}

    def make(**changes):
        return TrainConfig(**(values | changes))

    return make


def files(run):
    """The result of a run, without seconds."""
    run = Path(run)
    rows = [line.rpartition(",")[0] for line in (run / "history.csv").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    summary = {name: value for name, value in result.items() if name not in ("run", "seconds")}
    # Tensors rather than bytes of the file: safetensors writes metadata in any order.
    tensors = load_file(run / "head.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, rows, summary


KINDS = [
    {},
    {"loss": "infonce", "ema": 0.9, "schedule": "cosine", "warmup": 5},
    {"head": "adapter", "hard_negatives": 1, "keep": "last"},
    {"loss": "sigmoid", "captions_per_step": "all", "patience": 3},
    {"loss": "infonce", "temperature": 0.07},
    {"margin": "0.5:0.1", "steps": 33, "clip_norm": 0.1},
    {"loss": "infonce", "keep_neighbours": 0.3},
    {"head": "mlp", "hidden": 8, "bias": True, "train": "text"},
    {"init": "cca"},
]


@pytest.mark.parametrize("changes", KINDS, ids=lambda changes: " ".join(map(str, changes.values())) or "default")
def test_a_training_interrupted_after_any_epoch_resumes_bit_for_bit(settings, changes):
    whole = train(settings(name="whole", **changes))["run"]
    config = settings(name="cut", **changes)
    for reports in (1, 2, 3, 1, 4):
        folder = config.runs_dir / "cut"
        if not (folder / "config.json").exists():
            with pytest.raises(KeyboardInterrupt):
                train(config, on_progress=StopAfter(reports))
        elif not (folder / "result.json").exists():
            with contextlib.suppress(KeyboardInterrupt):
                resume(folder, on_progress=StopAfter(reports))
        assert (folder / "head.safetensors").exists()
    resume(folder)
    head, rows, summary = files(whole)
    assert files(folder) == (head, rows, summary)
    assert (folder / "head.safetensors").read_bytes() == Path(whole, "head.safetensors").read_bytes()
    assert not (folder / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_before_scalars_were_kept_resumes_to_the_same_head(settings):
    """One whose kept epoch is still to come: from there on the head has them."""
    whole = train(settings(name="whole", loss="sigmoid", keep="last"))["run"]
    config = settings(name="cut", loss="sigmoid", keep="last")
    with pytest.raises(KeyboardInterrupt):
        train(config, on_progress=StopAfter(3))
    path = config.runs_dir / "cut" / "checkpoint.safetensors"
    file = open_tensors(path)
    progress = json.loads(file.metadata["progress"])
    assert progress.pop("scalars").keys() == {"log_scale", "bias"}
    write_tensors(path, file.read(), metadata={"format": "2", "progress": json.dumps(progress)})
    assert files(resume(path.parent)["run"]) == files(whole)
    assert (path.parent / "head.safetensors").read_bytes() == Path(whole, "head.safetensors").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.ci
def test_a_training_killed_at_random_resumes_bit_for_bit(settings, children):
    """Six kills, anywhere: in a step, between a head and its checkpoint, in the middle of writing one."""
    whole = train(settings(name="whole", epochs=60, loss="infonce", ema=0.9))["run"]
    config, generator = settings(name="killed", epochs=60, loss="infonce", ema=0.9), random.Random(0)
    folder, kills = config.runs_dir / "killed", 0
    while kills < 6 and not (folder / "result.json").exists():
        process = children.Process(target=child_training.train, args=(config,))
        process.start()
        end = time.monotonic() + 60
        before = checkpoint_time(folder)
        while checkpoint_time(folder) == before and process.is_alive() and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.03))
        process.kill()
        process.join()
        kills += 1
    assert kills >= 2
    train_many([config], going_on=True)
    assert files(folder) == files(whole)


def checkpoint_time(folder):
    try:
        return (folder / "checkpoint.safetensors").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def test_a_run_that_is_complete_is_left_as_it_is(settings):
    result = train(settings(name="done"))
    head = Path(result["run"], "head.safetensors")
    before = head.stat().st_mtime_ns
    assert resume(result["run"]) == result
    assert head.stat().st_mtime_ns == before


def test_runs_at_different_epochs_resume_together(settings):
    """As in an interrupted sweep: some runs complete, some started, some not."""
    configs = [settings(name=f"{seed}", seed=seed) for seed in range(4)]
    whole = [train(replace(config, name=f"whole-{config.name}"))["run"] for config in configs]
    train(configs[0])
    for place, reports in ((1, 3), (2, 5)):
        with pytest.raises(KeyboardInterrupt):
            train(configs[place], on_progress=StopAfter(reports))
    for result, expected in zip(train_many(configs, going_on=True, stack=1), whole, strict=True):
        assert files(result["run"]) == files(expected)


def test_saving_takes_a_moment_only_now_and_then(settings, monkeypatch):
    """Epochs may take milliseconds, and a checkpoint as long."""
    saved, real = [], record.Record._save_checkpoint

    def spy(self, state):
        saved.append(self.epoch)
        real(self, state)

    monkeypatch.setattr(record.Record, "_save_checkpoint", spy)
    train(settings(epochs=10))
    assert saved == []
    monkeypatch.setattr(record, "_SAVE_EVERY_SECONDS", 0)
    train(settings(epochs=10))
    assert saved == list(range(11))


def test_a_run_of_another_cache_is_not_resumed(settings, cache_path):
    config = settings(name="cut")
    with pytest.raises(KeyboardInterrupt):
        train(config, on_progress=StopAfter(2))
    cache_path.unlink()
    write_cache(cache_path, contents(inputs={**contents().inputs, "weights_sha256": "cd" * 32}))
    folder = config.runs_dir / "cut"
    with pytest.raises(CacheMismatchError, match=rf"{cache_path} is not the cache that {folder} was made with: its"):
        resume(folder)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_broken_checkpoint_is_reported(settings, content):
    config = settings(name="cut")
    with pytest.raises(KeyboardInterrupt):
        train(config, on_progress=StopAfter(2))
    path = config.runs_dir / "cut" / "checkpoint.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError) as caught:
        resume(path.parent)
    assert str(caught.value).startswith(f"{path} cannot be read: it is no ")
    assert str(caught.value).endswith("; delete it, and the run starts again from its first epoch.")
    path.unlink()
    assert resume(path.parent)["epochs"] == 8


def test_a_full_disk_is_reported_with_the_command_that_resumes(settings, monkeypatch):
    config = settings(name="full")
    real = Path.open

    def write(path, *arguments, **more):
        if path.name.startswith("checkpoint"):
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **more)

    monkeypatch.setattr(record, "_SAVE_EVERY_SECONDS", 0)
    monkeypatch.setattr(Path, "open", write)
    with pytest.raises(RunError) as caught:
        train(config)
    folder = config.runs_dir / "full"
    assert str(caught.value) == (
        f"cannot write {folder}: No space left on device. What was saved before is kept; once that is fixed, go on "
        f"with: clipret train --resume {folder}"
    )
    monkeypatch.undo()
    assert files(resume(folder)["run"]) == files(train(settings(name="whole"))["run"])


def test_a_folder_that_is_not_a_run_is_reported(tmp_path):
    with pytest.raises(RunError) as caught:
        resume(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is not a run: it has no config.json; expected a folder made by clipret train."
    )
