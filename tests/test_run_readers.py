"""What a run's files say, and what is said of files that are damaged."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipret import EvalConfig, FailuresConfig, TrainConfig, evaluate, find_failures, train
from clipret.errors import RunError
from clipret.runs import read_config, read_failures, read_history, read_metrics, read_result
from tests.conftest import write_cache
from tests.helpers import system


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run that was trained and measured, of which all files are there. Not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    cache = write_cache(folder / "made.h5")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train(TrainConfig(cache=cache, epochs=2, batch_size=8, name="t"))
        evaluate(EvalConfig(head="runs/t", resamples=0))
        find_failures(FailuresConfig(head="runs/t", queries=2))
    return folder


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy of the run."""
    shutil.copytree(trained / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return Path("runs/t")


def refusal(reader, path):
    with pytest.raises(RunError) as caught:
        reader(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_file_of_a_run_is_read(run):
    assert read_config(run)["config"]["epochs"] == 2
    assert read_result(run)["epochs"] == 2
    assert read_metrics(run) == read_metrics(run / "metrics.json") == json.loads((run / "metrics.json").read_text())
    assert read_failures(run) == read_failures(run / "failures.json") == json.loads((run / "failures.json").read_text())
    history = read_history(run)
    assert [line["epoch"] for line in history] == [0, 1, 2]
    assert history[0]["loss"] is None
    assert all(isinstance(line["loss"], float) for line in history[1:])
    best = history[read_result(run)["kept_epoch"]]["val_rsum"]
    assert best == pytest.approx(read_result(run)["val_rsum"], abs=1e-5)


def test_an_old_run_has_its_failures_under_their_old_name(run):
    report = read_failures(run)
    (run / "failures.json").rename(run / "errors.json")
    assert read_failures(run) == report


@pytest.mark.parametrize(
    ("reader", "name", "message"),
    [
        (
            read_config,
            "config.json",
            "runs/t is not a run: it has no config.json; expected a folder made by clipret train.",
        ),
        (
            read_history,
            "history.csv",
            "there is no runs/t/history.csv; training stopped before it saved an epoch, or this is no run.",
        ),
        (
            read_metrics,
            "metrics.json",
            "there is no runs/t/metrics.json; measure the run with: clipret eval --head runs/t",
        ),
        (
            read_failures,
            "failures.json",
            "there is no runs/t/failures.json; write it with: clipret failures --head runs/t",
        ),
    ],
)
def test_a_file_that_is_missing_is_named(run, reader, name, message):
    (run / name).unlink()
    assert refusal(reader, run) == message


def test_a_run_without_a_result_is_not_complete(run):
    (run / "result.json").unlink()
    assert read_result(run) is None


AGAIN = "train the run again with this clipret."
RESUME = "delete it, and train the run again with: clipret train --resume runs/t"
EVAL = "expected a run's folder, or a metrics.json."
FAILURES = "write it again with: clipret failures --head runs/t"
READERS = {
    "config.json": (read_config, "cannot be read", AGAIN),
    "result.json": (read_result, "cannot be read", RESUME),
    "metrics.json": (read_metrics, "is not what clipret eval writes", EVAL),
    "failures.json": (read_failures, "is not what clipret failures writes", FAILURES),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_no_json_is_refused(run, name):
    reader, said, end = READERS[name]
    (run / name).write_text("{")
    reason = "it is not JSON: Expecting property name enclosed in double quotes, line 1, column 2"
    assert refusal(reader, run) == f"runs/t/{name} {said}: {reason}; {end}"


@pytest.mark.parametrize(
    ("name", "keys", "value", "reason"),
    [
        ("metrics.json", ["results"], [], "results is a list; expected an object"),
        ("metrics.json", ["results", "trained", "t2i", "R@1"], "high", "results.trained.t2i.R@1 is 'high'; expected a"),
        ("metrics.json", ["rsum", "trained"], None, "rsum.trained is null; expected a number"),
        ("metrics.json", ["cache", "path"], 1, "cache.path is 1; expected text"),
        ("failures.json", ["directions", "t2i", "queries"], -1, "directions.t2i.queries is -1; expected 0 or more"),
        ("failures.json", ["directions", "i2t", "worst"], {}, "directions.i2t.worst is an object; expected a list"),
        ("failures.json", ["heads"], "trained", "heads is 'trained'; expected a list"),
        ("config.json", ["cache"], None, "cache is null; expected an object"),
        ("result.json", ["steps"], 1.5, "steps is 1.5; expected a whole number"),
    ],
)
def test_a_field_of_another_type_is_named(run, name, keys, value, reason):
    content = json.loads((run / name).read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (run / name).write_text(json.dumps(content))
    reader, said, end = READERS[name]
    message = refusal(reader, run)
    assert message.startswith(f"runs/t/{name} {said}: {reason}")
    assert message.endswith(f"; {end}")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: re.sub(r"^1,[^,]*", "1,low", text, flags=re.M), "loss of epoch 1 is 'low'; expected a number"),
        (lambda text: re.sub(r"^1,[^,]*", "1,nan", text, flags=re.M), "loss of epoch 1 is 'nan'; expected a number"),
        (lambda text: text.replace("\n1,", "\n7,"), "it has not one line for each of its epochs"),
        (lambda text: text.rstrip("\n") + ",7\n", "it has not one line for each of its epochs"),
        (lambda text: text.replace("\n", '\n"', 1), "it is no CSV file (unexpected end of data)"),
    ],
)
def test_a_damaged_history_is_refused(run, change, reason):
    path = run / "history.csv"
    path.write_text(change(path.read_text()))
    assert (
        refusal(read_history, run)
        == f"runs/t/history.csv cannot be read: {reason}; expected what clipret train writes."
    )


@pytest.mark.parametrize("name", [*READERS, "history.csv"])
def test_a_pipe_is_not_waited_for(run, name):
    (run / name).unlink()
    system.make_pipe(run / name)
    reader = read_history if name == "history.csv" else READERS[name][0]
    assert "it is a pipe, not a file" in refusal(reader, run)


def test_readers_load_no_torch():
    check = "import sys, clipret.runs\nassert not {'torch', 'numpy', 'h5py'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)
