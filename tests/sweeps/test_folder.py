"""sweep.json: what resuming a sweep keeps, and what it refuses."""

import json
from pathlib import Path

import pytest

from clipret.config.sweeps import SweepConfig
from clipret.errors import RunError, UsageError
from clipret.sweeps import folder, resume_sweep, sweep
from tests.conftest import StopAfter
from tests.helpers import system


@pytest.fixture
def config(cache_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(**changes):
        axes = {"epochs": 2, "batch_size": 8, "lr": "1e-3,1e-2", "temperature": [None, 0.5], "loss": "infonce"}
        return SweepConfig(**({"cache": cache_path, "axes": axes, "seeds": 1, "device": "cpu"} | changes))

    return make


@pytest.fixture
def complete(config):
    """A complete sweep of four runs; its sweep.json and the content."""
    sweep(config(keep_heads=4, soup=True))
    path = Path("runs/sweep-0001/sweep.json")
    return path, json.loads(path.read_text())


def refusal(action, *arguments, error=RunError):
    with pytest.raises(error) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def recorded():
    content = json.loads(Path("runs/sweep-0001/sweep.json").read_text())
    return {name: content[name] for name in ("format", "cache", "config", "configurations", "failed")}


def test_going_on_keeps_every_setting_that_the_sweep_was_given(config, tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("lr: {low: 1e-4, high: 1e-2, scale: log}\n")
    axes = {"epochs": 2, "batch_size": [8], "margin": "0.1:0.3,auto"}
    with pytest.raises(KeyboardInterrupt):
        sweep(config(grid=grid, random=3, axes=axes), on_progress=StopAfter(2))
    before = recorded()
    assert before["config"]["axes"] == {"epochs": [2], "batch_size": [8], "margin": ["0.1:0.3", "auto"]}
    assert (before["config"]["name"], before["config"]["grid"]) == (None, str(grid))
    resume_sweep("runs/sweep-0001")
    assert recorded() == before
    resume_sweep("runs/sweep-0001")
    assert recorded() == before


def test_a_sweep_that_was_moved_keeps_and_deletes_its_own_heads(complete):
    path, content = complete
    content["config"]["keep_heads"] = 1
    path.write_text(json.dumps(content))
    Path("elsewhere").mkdir()
    moved = path.parent.rename("elsewhere/mine")
    for run in moved.glob("*-seed0"):
        other = Path("runs/sweep-0001", run.name)
        other.mkdir(parents=True)
        (other / "head.safetensors").write_text("another's")
    resume_sweep(moved)
    assert len(list(moved.glob("*-seed0/head.safetensors"))) == 1
    assert len(list(Path("runs/sweep-0001").glob("*/head.safetensors"))) == 4


def change(content, keys, value):
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value


WRONG = [
    (["cache"], None, "cache is null; expected an object"),
    (["config"], [], "config is a list; expected an object"),
    (["config", "seeds"], "3", "config.seeds is '3'; expected a list"),
    (["config", "seeds"], [1.5], "config.seeds.0 is 1.5; expected a whole number"),
    (["config", "seeds"], [], "--seeds is '[]', which is none; expected how many, such as 3, or which, such as 0,5,7"),
    (["config", "axes"], None, "config.axes is null; expected an object"),
    (["config", "cache"], None, "--cache is None; expected a path"),
    (["config", "keep_heads"], 0, "--keep-heads is 0; expected 1 or more"),
    (["config", "test_all"], "yes", "--test-all is yes; expected true or false"),
    (["configurations"], {}, "configurations is an object; expected a list"),
    (["configurations", 0], None, "configurations.0 is null; expected an object"),
    (["configurations", 0, "lr"], "fast", "--lr is fast; expected a number"),
    (["configurations", 0, "cache"], None, "--cache is None; expected a path"),
    (["failed"], {"../../x": "y"}, "failed has ../../x, which is no run of it"),
    (["failed"], {"x": 1}, "failed.x is 1; expected text"),
    (["seconds"], "1", "seconds is '1'; expected a number"),
    (["result"], [], "result is a list; expected an object"),
    (
        ["result", "configurations", 0, "runs"],
        ["/elsewhere"],
        "result has other runs of configuration {number} than it",
    ),
    (["result", "configurations", 0, "number"], 9, "result has configuration 9 of 4"),
    (["result", "configurations", 0, "val_rsum"], 1.0, "result.configurations.0.val_rsum is 1.0; expected an object"),
    (["result", "configurations"], [], "result.configurations are not its configurations, each once"),
    (["result", "varied"], ["lr"], "result.varied or result.fixed are not the settings of it"),
    (["result", "fixed"], {"speed": 1}, "result.varied or result.fixed are not the settings of it"),
    (["result", "chosen", "failed"], {"0": "x"}, "result.chosen is a configuration of which every run failed"),
    (["result", "chosen", "settings"], {}, "result has other seeds or settings of configuration {number} than it"),
    (
        ["result", "zero_shot", "test"],
        None,
        "result.chosen has test figures, and its baseline or result.protocol none",
    ),
    (["result", "soup", "runs"], [], "result.soup has no runs, or others than those of it"),
    (["result", "soup", "runs"], ["../../x"], "result.soup has no runs, or others than those of it"),
    (["result", "soup", "heads"], 0, "result.soup.heads is 0; expected 1 or more"),
    (["result", "soup", "unlike"], {"start": "3"}, "result.soup.unlike.start is '3'; expected a whole number"),
    (["config", "soup"], "yes", "--soup is yes; expected true or false"),
    (["result", "zero_shot", "val_rsum"], None, "result.zero_shot.val_rsum is null; expected a number"),
    (["result", "chosen", "command"], 1, "result.chosen.command is 1; expected text"),
    (["result", "remarks"], "x", "result.remarks is 'x'; expected a list"),
]


def test_a_sweep_that_cannot_be_resumed_is_reported_with_the_field(complete):
    """One sweep for all: each time with one thing changed."""
    path, content = complete
    number = content["result"]["configurations"][0]["number"]
    for keys, value, text in WRONG:
        spoiled = json.loads(json.dumps(content))
        change(spoiled, keys, value)
        path.write_text(json.dumps(spoiled))
        assert refusal(resume_sweep, path.parent) == (
            f"{path} cannot be read: {text.format(number=number)}; start the sweep again with this clipret."
        )
    path.write_text(json.dumps(content))
    assert resume_sweep(path.parent) == content["result"]
    assert len(list(path.parent.glob("*-seed0/head.safetensors"))) == 4
    path.unlink()
    system.make_pipe(path)
    assert refusal(resume_sweep, path.parent) == (
        f"{path} cannot be read: it is a pipe, not a file; start the sweep again with this clipret."
    )


def test_an_unknown_setting_is_reported(complete):
    path, content = complete
    content["configurations"][0]["speed"] = 1
    path.write_text(json.dumps(content))
    text = refusal(resume_sweep, path.parent)
    assert text == (
        f"{path} cannot be read: it has settings that this clipret does not know: speed; start the sweep again with "
        "this clipret."
    )


def test_a_run_without_what_is_chosen_by_is_refused(config):
    with pytest.raises(KeyboardInterrupt):
        sweep(config(stack=1), on_progress=StopAfter(4))
    path = next(Path("runs/sweep-0001").glob("*/result.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "val_rsum": None}))
    assert refusal(resume_sweep, "runs/sweep-0001") == (
        f"{path} has no val_rsum, by which a sweep chooses; delete it, and go on with: "
        f"clipret sweep --resume runs/sweep-0001"
    )
    path.unlink()
    assert resume_sweep("runs/sweep-0001")["runs"] == 4


def test_runs_are_counted_before_any_is_made(config, monkeypatch):
    monkeypatch.setattr(folder, "MOST_RUNS", 7)
    assert refusal(sweep, config(seeds=2), error=UsageError) == (
        "4 configurations with 2 seeds each are 8 runs, more than 7; give fewer values or --seeds, or draw some with "
        "--random N."
    )
    assert not Path("runs").exists()
