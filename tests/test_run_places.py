from pathlib import Path

import pytest

from clipret import (
    CompareConfig,
    EvalConfig,
    FailuresConfig,
    ReproduceConfig,
    compare,
    evaluate,
    find_failures,
    reproduce,
)
from clipret.errors import UsageError
from clipret.machine.files import replaced
from clipret.runs import check_place


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "mine").write_text("a file")
    for name in ("config.json", "result.json", "metrics.json", "history.csv", "errors.json"):
        (tmp_path / "runs" / "a" / name).write_text("kept")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "--out is '.', a folder; expected a file."),
        ("/", "--out is '/', a folder; expected a file."),
        ("runs", "--out is 'runs', a folder; expected a file."),
        ("told.txt", "--out is 'told.txt'; expected a file that ends with .json."),
        ("c.h5", "--out is 'c.h5'; expected a file that ends with .json."),
        ("no/x.json", "--out is 'no/x.json', but there is no folder no; make it first."),
        (
            "runs/a/metrics.json/x.json",
            "--out is 'runs/a/metrics.json/x.json', but there is no folder runs/a/metrics.json;",
        ),
        (
            "runs/a/config.json",
            "--out is 'runs/a/config.json', which is a record of a run or a sweep; give another name.",
        ),
        ("runs/a/errors.json", "--out is 'runs/a/errors.json', which is a record of a run or a sweep; give another"),
        ("runs/a/result.json", "--out is 'runs/a/result.json', which is a record of a run or a sweep; "),
    ],
)
def test_a_place_for_json_that_cannot_be_one_is_refused(place, message):
    with pytest.raises(UsageError) as caught:
        check_place("out", Path(place), suffixes=(".json",), own="metrics.json")
    assert str(caught.value).startswith(message)


def test_a_result_replaces_its_own_kind_and_what_is_no_record():
    Path("mine.json").write_text("{}")
    for place in ("runs/a/metrics.json", "mine.json", "new.json", "config.json"):
        check_place("out", Path(place), suffixes=(".json",), own="metrics.json")
    with pytest.raises(UsageError, match="a record of a run"):
        check_place("out", Path("runs/a/metrics.json"))
    with pytest.raises(UsageError, match="a record of a run"):
        check_place("per-query", Path("runs/a/history.csv"), suffixes=(".csv",))


@pytest.mark.parametrize("name", ["c.h5", "c.hdf5", "head.safetensors", "features.npy"])
def test_what_features_and_heads_are_kept_in_is_never_a_place_for_a_result(name):
    with pytest.raises(UsageError) as caught:
        check_place("out", Path(name))
    assert str(caught.value) == f"--out is '{name}', but {Path(name).suffix} is what features and heads are kept in."


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        (evaluate, EvalConfig(cache="c.h5", zero_shot=True, out="c.h5")),
        (find_failures, FailuresConfig(cache="c.h5", zero_shot=True, out="c.h5")),
        (reproduce, ReproduceConfig(cache="c.h5", out="c.h5")),
        (compare, CompareConfig(runs=("runs/a", "zero-shot"), format="csv", out="c.h5")),
    ],
)
def test_no_stage_writes_over_a_cache(stage, config):
    Path("c.h5").write_bytes(b"features")
    with pytest.raises(UsageError, match=r"^--out is 'c\.h5'"):
        stage(config)
    assert Path("c.h5").read_bytes() == b"features"


def test_a_file_is_replaced_whole_or_left_as_it_was():
    path = Path("x.json")
    with replaced(path) as unfinished:
        unfinished.write_text("first")

    def interrupted():
        with replaced(path) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "first"
    assert [entry.name for entry in Path().glob("x.json*")] == ["x.json"]
