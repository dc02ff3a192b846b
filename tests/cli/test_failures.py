import json
from pathlib import Path

import pytest
import typer

from clipret import TrainConfig, train
from clipret.cli.failures import failures
from clipret.config.failures import FailuresConfig
from clipret.errors import UsageError
from clipret.evaluation.failures import find_failures
from tests.conftest import write_cache


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Run the command in a folder with one cache and one run; returns standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    write_cache(tmp_path / "made.h5")
    train(TrainConfig(cache="made.h5", epochs=3, lr=1e-2))
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(failures)

    def call(*words):
        capsys.readouterr()
        app([str(word) for word in words], standalone_mode=False)
        output = capsys.readouterr()
        return output.out, output.err

    return call


def test_tables_are_shown_and_the_result_is_kept(call):
    out, err = call()
    kept = json.loads(Path("runs/0001-margin-linear/failures.json").read_text(encoding="utf-8"))
    assert kept == find_failures(FailuresConfig())
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for direction, asks in (("t2i", "captions, among 12 images"), ("i2t", "images, among")):
        assert sum(line.startswith(f"{direction}: the worst of ") and asks in line for line in lines) == 1
        for title in ("ranks against zero-shot: ", "hubs, ", "by caption length and matching items"):
            assert sum(line.startswith(f"{direction}: {title}") for line in lines) == 1
    assert max(map(len, out.splitlines())) <= 100
    assert lines[-1] == "run runs/0001-margin-linear, cache made.h5, protocol split, test"
    assert "ranking 24/24" in err


def test_json_is_the_result_and_nothing_else(call):
    out, err = call("--json", "--queries", 2, "--top", 3, "--split", "val", "--out", "here.json")
    assert json.loads(out) == json.loads(Path("here.json").read_text(encoding="utf-8"))
    assert json.loads(out) == find_failures(FailuresConfig(queries=2, top=3, split="val"))
    assert err == ""


def test_quiet_leaves_the_tables_alone(call):
    out, err = call("--quiet")
    assert "cache made.h5" not in out
    assert "the worst of" in out
    assert err == ""


def test_zero_shot_alone_needs_a_cache_and_no_run(call):
    out, _ = call("--zero-shot", "--cache", "made.h5")
    assert "against zero-shot" not in out
    assert out.splitlines()[-1] == "zero-shot, cache made.h5, protocol split, test"
    with pytest.raises(UsageError, match=r"^--zero-shot needs a cache; give it with --cache FILE\.$"):
        call("--zero-shot")


def test_a_leak_is_refused_unless_allowed_and_then_said(run, tmp_path):
    write_cache(tmp_path / "made.h5")
    run("train", "--cache", "made.h5", "--epochs", 1, "-q")
    status, out, err = run("failures", "--split", "train")
    assert (status, out) == (1, "")
    assert err.startswith("error: 36 of the 36 train images were trained on by runs/0001-margin-linear: ")
    status, out, _ = run("failures", "--split", "train", "--allow-leak")
    assert status == 0
    assert out.splitlines()[-1] == "LEAK: 36 of these 36 images were trained on"


def test_the_command_line_has_it_and_says_what_is_wrong(run):
    assert run("failures", "--queries", 0) == (2, "", "error: --queries is 0; expected 1 or more.\n")


def test_the_old_name_works_and_says_the_new_one(run, tmp_path):
    write_cache(tmp_path / "made.h5")
    words = ("--zero-shot", "--cache", "made.h5", "-q")
    status, out, _ = run("failures", *words)
    assert status == 0
    assert run("errors", *words) == (
        0,
        out,
        "clipret errors is called clipret failures now; the old name goes with the next release.\n",
    )
    commands = run("--help")[1]
    assert " failures " in commands
    assert " errors " not in commands
