"""What a sweep looks like on the command line."""

import json
import re
from pathlib import Path

import pytest

from clipret.cli import sweeps
from clipret.reporting.sweep import sweep_sheets, sweep_summary
from tests.conftest import StopAfter
from tests.helpers import drawing


def figures(mean, std=None):
    value = {"mean": mean, "std": std}
    return {direction: dict.fromkeys(("R@1", "R@5", "R@10"), value) for direction in ("t2i", "i2t")} | {
        "rsum": {"mean": 6 * mean, "std": std}
    }


def entry(number, *, lr, mean=4.5, std=0.012, test=None, failed=()):
    return {
        "number": number,
        "settings": {"loss": "margin", "margin": 0.1 if number < 3 else None, "lr": lr},
        "seeds": [0, 1],
        "runs": [f"runs/sweep-0001/{2 * number - 1 + seed:04d}-x-seed{seed}" for seed in (0, 1)],
        "val_rsum": {"mean": mean, "std": std} if mean else None,
        "failed": dict.fromkeys(failed, "it broke."),
        "test": test,
    }


@pytest.fixture
def result():
    entries = [
        entry(2, lr=3e-4, test=figures(0.5, 0.012)),
        entry(1, lr=1e-4, mean=4.25, std=None, failed=["0"]),
        entry(3, lr=1e-2, mean=None, failed=["0", "1"]),
    ]
    return {
        "sweep": "runs/sweep-0001",
        "cache": "c.h5",
        "runs": 6,
        "failed": 3,
        "varied": ["loss", "margin", "lr"],
        "fixed": {"epochs": 5, "head": "linear", "ema": 0.9},
        "configurations": entries,
        "chosen": {**entries[0], "command": "clipret train --cache c.h5 --lr 0.0003"},
        "zero_shot": {"val_rsum": 4.1, "test": figures(0.4)},
        "protocol": {"name": "split", "split": "test"},
        "test_all": False,
        "remarks": ["something [odd]"],
        "seconds": 12.34,
    }


def drawn(result):
    return drawing.words(drawing.drawn(sweep_sheets(result)))


def test_the_leaderboard_has_settings_means_and_spreads(result):
    lines = drawn(result)
    assert "3 configurations, 2 seeds each, by validation" in lines
    assert "1 margin 0.1 0.0003 4.500 ± 0.012" in lines
    assert "2 margin 0.1 0.0001 4.250, 1 failed" in lines
    assert "3 margin – 0.01 failed" in lines
    assert "zero-shot 4.100" in lines
    assert "all: epochs 5, ema 0.9" in lines


def test_the_test_results_of_the_chosen_configuration_are_shown_with_zero_shot(result):
    lines = drawn(result)
    assert "test, protocol split" in lines
    assert "t2i R@1 40.0 50.0 ± 1.2 +10.0" in lines
    assert "i2t R@10 40.0 50.0 ± 1.2 +10.0" in lines
    assert "rsum 2.400 3.000 ± 0.012 +0.600" in lines
    assert "percent; ties count against us; chosen by validation, then measured" in " ".join(lines)
    assert "chosen: loss margin, margin 0.1, lr 0.0003" in " ".join(lines)
    assert "no estimate" not in " ".join(lines)


def test_test_figures_of_all_come_with_what_they_are_not(result):
    result["test_all"] = True
    result["configurations"][1]["test"] = figures(0.3)
    lines = drawn(result)
    assert "1 margin 0.1 0.0003 4.500 ± 0.012 50.0 ± 1.2 50.0 ± 1.2 3.000 ± 0.012" in lines
    assert "2 margin 0.1 0.0001 4.250, 1 failed 30.0 30.0 1.800" in lines
    assert "3 margin – 0.01 failed" in lines
    assert "zero-shot 4.100 40.0 40.0 2.400" in lines
    assert (
        "test figures of all are shown: those of a configuration picked by them are no estimate for new data"
    ) in " ".join(lines)
    assert "percent; ties count against us; the best by validation" in " ".join(lines)


def test_without_test_figures_there_is_the_leaderboard_alone(result):
    result["chosen"] = {**result["chosen"], "test": None}
    assert len(sweep_sheets(result)) == 1


def test_a_sweep_of_one_configuration_is_a_table_too(result):
    only = result["configurations"][0] | {"settings": {}, "seeds": [0]}
    lines = drawn(result | {"varied": [], "configurations": [only], "chosen": only})
    assert "1 configuration, 1 seed each, by validation" in " ".join(lines)
    assert "1 4.500 ± 0.012" in lines
    assert not any(line.startswith("chosen:") for line in lines)


def test_of_many_configurations_twenty_are_shown(result):
    result["configurations"] = [result["configurations"][0] | {"number": number} for number in range(1, 31)]
    lines = drawn(result)
    assert sum("margin 0.1 0.0003" in line for line in lines if line[:1].isdigit()) == 20
    assert "and 10 more in runs/sweep-0001/sweep.csv" in lines


def test_the_summary_says_where_things_are_and_how_to_go_on(result):
    result["chosen"]["failed"] = {"0": "it broke."}
    assert sweep_summary(result).splitlines() == [
        "runs/sweep-0001: 6 runs in 12.3 s; all of them in runs/sweep-0001/sweep.csv.",
        "Note: something [odd].",
        "To train the best again: clipret train --cache c.h5 --lr 0.0003",
        "Next: clipret eval --head runs/sweep-0001/0004-x-seed1",
    ]


def soup(**changes):
    names = ["0004-x-seed1", "0001-x-seed0"]
    made = {"run": "runs/sweep-0001/soup", "runs": names, "heads": 6, "unlike": {}, "test": figures(0.55)}
    return {**made, "val_rsum": 4.6, "best_val_rsum": 4.55, **changes}


def test_the_soup_stands_beside_the_baseline_with_its_heads_and_a_way_to_compare_it(result):
    lines = drawn({**result, "soup": soup(unlike={"start": 3, "kind": 1})})
    assert "soup, test, protocol split" in lines
    place = lines.index("soup, test, protocol split")
    assert "val rsum 4.100 4.600 +0.500" in lines[place:]
    assert "t2i R@1 40.0 55.0 +15.0" in lines[place:]
    assert "rsum 2.400 3.300 +0.900" in lines[place:]
    said = " ".join(lines)
    assert "the average of 2 heads of 6, accepted on val: rsum of the best alone 4.550, of the soup 4.600" in said
    assert (
        "3 heads not averaged: they started from other weights than 0004-x-seed1 (--init, or a random start by seed)"
    ) in said
    assert "1 head not averaged: of another kind or other settings of the head than 0004-x-seed1" in said
    assert "its heads: 0004-x-seed1, 0001-x-seed0" in said
    summary = sweep_summary({**result, "soup": soup()}).splitlines()
    assert summary[-2] == ("Is the soup better? clipret compare runs/sweep-0001/soup runs/sweep-0001/0003-x-seed0")


def test_a_soup_of_one_head_and_one_without_test_figures_say_so(result):
    result = {**result, "chosen": {**result["chosen"], "test": None}}
    alone = soup(runs=["0004-x-seed1"], val_rsum=4.55, test=None)
    lines = drawn({**result, "soup": alone})
    assert "soup" in lines
    assert "no average with another head was as good on val: the soup is the head of 0004-x-seed1" in " ".join(lines)
    assert not any("R@1 40.0" in line for line in lines)
    assert not any("compare" in line for line in sweep_summary({**result, "soup": alone}).splitlines())


WORDS = ["--epochs", "2", "--batch-size", "8", "--lr", "1e-3,1e-2", "--seeds", "2"]


def test_the_command_trains_ranks_and_measures(run, cache_path):
    status, out, err = run("sweep", "--cache", cache_path, *WORDS)
    assert status == 0
    assert "epochs 8/8" in err
    assert "test 2/2" in err
    shown = " ".join(out.split())
    assert all(
        text in shown for text in ("2 configurations, 2 seeds each, by validation", "zero-shot", "chosen", "gain")
    )
    (head,) = re.findall(r"eval --head (\S+)", out)
    assert run("eval", "--head", head, "-q")[0] == 0


def test_json_and_quiet_are_the_result(run, cache_path):
    status, out, err = run("sweep", "--cache", cache_path, *WORDS, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(Path("runs/sweep-0001/sweep.json").read_text())["result"]
    assert run("sweep", "--cache", cache_path, *WORDS, "-q") == (0, "runs/sweep-0002\n", "")
    status, out, _ = run("sweep", "--resume", "runs/sweep-0001", "--json")
    assert json.loads(out)["sweep"] == "runs/sweep-0001"


def test_every_option_becomes_an_axis_of_the_setting_of_its_name(run, cache_path, monkeypatch):
    """Of all settings but those that need a grid file."""
    asked = []
    monkeypatch.setattr(sweeps, "run", lambda stage, config, **options: asked.append(config) or {"sweep": "x"})
    monkeypatch.setattr(sweeps, "sweep_summary", lambda result: "")
    values_of = {
        "head": ("linear",), "train": ("both", "image"), "init": ("clip", "ridge"), "ridge": ("auto", 1.0),
        "adapter_reduction": (2, 4), "adapter_ratio": (0.5,), "adapter_relu": (True, False), "loss": ("margin",),
        "margin": (0.1, "auto"), "reduction": ("mean",), "violation": ("max",), "temperature": (None, 0.1),
        "hard_negatives": (0, 2), "epochs": (3,), "steps": (None, 5), "batch_size": (8, 16),
        "captions_per_step": ("one", "all"), "lr": (0.1,), "weight_decay": (0.5,), "clip_norm": (None, 1.0),
        "ema": (0.9,), "schedule": ("cosine",), "warmup": (3,), "patience": (None, 2), "keep": ("last",),
        "precision": ("fp32", "bf16"), "features": ("host",),
    }  # fmt: skip
    words = []
    for name, values in values_of.items():
        words += [f"--{name.replace('_', '-')}", ",".join(map(str, values))]
    own = ["--seeds", "4,2", "--random", "9", "--seed", "3", "--keep-heads", "2", "--test-all", "--stack", "5"]
    assert run("sweep", "--cache", cache_path, *words, *own, "--memory-limit", "2", "--device", "cpu", "-q")[0] == 0
    (config,) = asked
    assert config.axes == values_of
    assert (config.seeds, config.random, config.seed, config.keep_heads) == ((4, 2), 9, 3, 2)
    assert (config.test_all, config.stack, config.memory_limit, config.device) == (True, 5, 2.0, "cpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing option '--cache'. (clipret sweep --help tells more)"),
        (["--cache", "c.h5", "--lr", "x"], "--lr is 'x'; expected a number."),
        (
            ["--resume", "runs/sweep-0001", "--lr", "1", "--keep-heads", "2"],
            "--resume goes on with the settings that the sweep has; leave out --keep-heads, --lr.",
        ),
    ],
)
def test_wrong_usage_is_said(run, words, message):
    assert run("sweep", *words) == (2, "", f"error: {message}\n")


def test_after_an_interruption_the_command_that_goes_on_is_named(run, cache_path, monkeypatch):
    real = sweeps.run

    def interrupted(stage, config, **options):
        def stop(config, *, on_progress):
            return stage(config, on_progress=StopAfter(2))

        return real(stop, config, **options)

    monkeypatch.setattr(sweeps, "run", interrupted)
    status, out, err = run("sweep", "--cache", cache_path, *WORDS)
    assert (status, out) == (130, "")
    way_on = "runs that are complete are kept; go on with: clipret sweep --resume runs/sweep-0001"
    assert err.splitlines()[-1] == f"error: interrupted; {way_on}"
    assert run("sweep", "--resume", "runs/sweep-0001")[2].splitlines()[-1] == f"error: interrupted; {way_on}"


def test_an_interruption_before_anything_was_made_says_so(run, cache_path, monkeypatch):
    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("clipret.sweeps.stage.open_features", stop)
    status, _, err = run("sweep", "--cache", cache_path, *WORDS)
    assert (status, err) == (
        130,
        "error: interrupted; nothing was trained yet; start again with the same command\n",
    )


def test_the_help_has_examples(run):
    status, out, _ = run("sweep", "--help")
    assert status == 0
    assert "clipret sweep --resume runs/sweep-0001" in out
    assert "clipret sweep --cache data/emoji.h5 --grid sweep.yaml --random 50" in out
