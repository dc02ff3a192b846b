"""The command compare, from the words to what is shown and written; runs of real trainings among them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from clipret.config.comparison import CompareConfig
from clipret.evaluation.comparison.stage import compare
from clipret.reporting import FORMS
from clipret.reporting.comparison import comparison_records, comparison_sheets
from tests.helpers.ranked import random_head, write_run

COUNTS = np.tile([1, 2, 3], 15)


@pytest.fixture(autouse=True)
def measured_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zero_shot = random_head(np.random.default_rng(0), counts=COUNTS)
    for name, seed, spread, config in (
        ("a", 1, 6, {"seed": 0}),
        ("b", 2, 6, {"seed": 1}),
        ("c", 3, 20, {"loss": "infonce"}),
    ):
        ranked = random_head(np.random.default_rng(seed), counts=COUNTS, spread=spread)
        write_run(Path("runs", name), ranked, zero_shot, config=config)


WORDS = ("runs/a", "runs/c", "zero-shot")


def test_the_command_shows_figures_and_differences(run):
    status, out, err = run("compare", *WORDS)
    assert status == 0
    assert "flips 10000/10000" in err.replace(",", "")
    shown = " ".join(out.split())
    for text in ("1 loss=margin", "loss=infonce", "3 zero-shot", "1 - 2 t2i R@1", "2 - 3 rsum", "1 better"):
        assert text in shown


def test_quiet_shows_no_progress(run):
    status, out, err = run("compare", *WORDS, "-q")
    assert (status, err) == (0, "")
    assert "1 - 2" in out


def test_json_is_the_result(run):
    status, out, err = run("compare", *WORDS, "runs/b", "--json", "--seed", 5)
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert result == compare(CompareConfig(runs=(*WORDS, "runs/b"), seed=5))
    assert [entry["runs"] for entry in result["groups"]] == [["runs/a", "runs/b"], ["runs/c"], ["zero-shot"]]


def test_every_option_becomes_the_setting_of_its_name(run):
    status, out, _ = run(
        "compare", *WORDS, "--metrics", "R@1, mAP,rsum", "--k", "1,3", "--protocol", "split",
        "--level", 0.9, "--alpha", 0.1, "--permutations", 20_000, "--seed", 2, "--json",
    )  # fmt: skip
    assert status == 0
    result = json.loads(out)
    assert {name: result[name] for name in ("metrics", "k", "level", "alpha", "flips", "seed")} == {
        "metrics": ["R@1", "mAP@1", "mAP@3", "rsum"],
        "k": [1, 3],
        "level": 0.9,
        "alpha": 0.1,
        "flips": 20_000,
        "seed": 2,
    }


WRITERS = {
    "md": lambda result: FORMS["markdown"](comparison_sheets(result)),
    "tex": lambda result: FORMS["latex"](comparison_sheets(result)),
    "csv": lambda result: FORMS["csv"](comparison_records(result)),
    "html": lambda result: FORMS["html"](comparison_sheets(result)),
    "json": lambda result: json.dumps(result, indent=2, ensure_ascii=False) + "\n",
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_out_is_written_in_the_format_of_its_suffix(run, suffix):
    status, out, _ = run("compare", *WORDS, "--out", f"told.{suffix}")
    assert status == 0
    assert out.splitlines()[-1] == f"written to told.{suffix}"
    assert "1 loss=margin" in out
    result = compare(CompareConfig(runs=WORDS))
    assert Path(f"told.{suffix}").read_text(encoding="utf-8") == WRITERS[suffix](result)
    assert sorted(path.name for path in Path().iterdir()) == ["runs", f"told.{suffix}"]


@pytest.mark.parametrize(
    ("format", "suffix"), [("markdown", "md"), ("latex", "tex"), ("csv", "csv"), ("html", "html"), ("json", "json")]
)
def test_a_format_is_printed_alone(run, format, suffix):
    status, out, err = run("compare", *WORDS, "--format", format, "-q")
    assert (status, err) == (0, "")
    assert out == WRITERS[suffix](compare(CompareConfig(runs=WORDS)))


def test_format_overrules_the_suffix(run):
    assert run("compare", *WORDS, "--out", "told.txt", "--format", "csv")[0] == 0
    assert Path("told.txt").read_text().startswith("kind,a,b,label")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (
            ["runs/a"],
            2,
            "only `runs/a` was given; name two runs or more to compare, or a run and one of zero-shot, closed-form.",
        ),
        (["runs/a", "runs/a"], 2, "runs/a was given twice; give it once."),
        (
            ["runs/a", "runs/x"],
            1,
            "there is no runs/x; expected a run's folder, a file that clipret eval wrote, zero-shot or closed-form.",
        ),
        ([*WORDS, "--k", "x"], 2, "--k is 'x'; expected whole numbers separated by commas, such as 1,5,10."),
        (
            [*WORDS, "--out", "no/told.md", "-q"],
            2,
            "--out is 'no/told.md', but there is no folder no; make it first.",
        ),
    ],
)
def test_invalid_values_are_reported(run, words, status, message):
    assert run("compare", *words) == (status, "", f"error: {message}\n")


def test_trainings_and_files_that_eval_wrote_are_compared(run, cache_path):
    for words in (("--seed", 0), ("--seed", 1), ("--loss", "infonce")):
        assert run("train", "--cache", cache_path, "--epochs", 2, "--batch-size", 8, *words, "-q")[0] == 0
    runs = sorted(str(path) for path in Path("runs").glob("000*"))
    for folder in runs:
        assert run("eval", "--head", folder, "-q")[0] == 0
    assert run("eval", "--zero-shot", "--cache", cache_path, "--out", "clip.json", "-q")[0] == 0
    status, out, _ = run("compare", *runs, "zero-shot", "clip.json", "--json")
    assert status == 0
    result = json.loads(out)
    assert [(entry["label"], len(entry["runs"])) for entry in result["groups"]] == [
        ("loss=margin", 2),
        ("loss=infonce", 1),
        ("zero-shot", 1),
        ("clip.json", 1),
    ]
    last = [pair for pair in result["pairs"] if (pair["a"], pair["b"]) == ("zero-shot", "clip.json")]
    assert all((pair["difference"], pair["p"]) == (0.0, 1.0) for pair in last)
    report = json.loads(Path(runs[2], "metrics.json").read_text())
    assert result["groups"][1]["values"]["t2i"]["R@1"] == pytest.approx(report["results"]["trained"]["t2i"]["R@1"])
    assert result["groups"][1]["values"]["rsum"] == pytest.approx(report["rsum"]["trained"])


def test_the_split_that_differs_is_named(run, cache_path):
    for seed in (0, 1):
        assert run("train", "--cache", cache_path, "--epochs", 1, "--seed", seed, "-q")[0] == 0
    first, second = sorted(str(path) for path in Path("runs").glob("000*"))
    assert run("eval", "--head", first, "-q")[0] == run("eval", "--head", second, "--split", "val", "-q")[0] == 0
    assert run("compare", first, second) == (
        2,
        "",
        f"error: {first} and {second} were measured on different data by protocol split: test and val; measure both on "
        f"the same images and captions.\n",
    )


def test_the_help_has_examples(run):
    status, out, _ = run("compare", "--help")
    assert status == 0
    assert "clipret compare runs/0001-margin-linear zero-shot" in out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.ci
def test_an_encoding_without_our_characters_costs_no_result(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "clipret", "compare", *WORDS]
    done = subprocess.run([*command, "-q"], env=environment, capture_output=True, check=True)
    assert b"1 loss=margin" in done.stdout
    output = subprocess.run([*command, "--json"], env=environment, capture_output=True, check=True).stdout
    assert json.loads(output.decode(encoding)) == compare(CompareConfig(runs=WORDS))
