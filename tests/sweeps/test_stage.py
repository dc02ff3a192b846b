"""Sweeps, on the real training and evaluation; and with a fake training where numbers must be known."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from clipret import EvalConfig, TrainConfig, evaluate, train
from clipret.config.sweeps import SweepConfig
from clipret.errors import CacheMismatchError, RunError, TrainingError, UsageError
from clipret.sweeps import resume_sweep, stage, sweep
from clipret.training import train_many
from tests.conftest import StopAfter, contents, write_cache

WAYS, CUTS = ("t2i", "i2t"), ("R@1", "R@5", "R@10")


@pytest.fixture
def settings(cache_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(**changes):
        axes = {"epochs": 3, "batch_size": 8, "lr": "1e-3,1e-2", **changes.pop("axes", {})}
        return SweepConfig(**({"cache": cache_path, "axes": axes, "seeds": 2, "device": "cpu"} | changes))

    return make


@pytest.fixture
def made_up(monkeypatch):
    """Give every run a val rsum by a function of its config, or an error; the runs themselves take no epoch."""

    def replace(score):
        def fake(configs, *, on_run, **options):
            real = train_many(
                [TrainConfig(**(vars(config) | {"epochs": 0, "steps": None})) for config in configs], going_on=True
            )
            for place, (config, result) in enumerate(zip(configs, real, strict=True)):
                rsum = score(config)
                result = (
                    {"run": result["run"], "error": rsum}
                    if isinstance(rsum, str)
                    else {**result, "val_rsum": rsum, "seconds": 1.5}
                )
                path = Path(result["run"], "result.json")
                path.unlink() if "error" in result else path.write_text(json.dumps(result))
                on_run(place, result)
            return []

        monkeypatch.setattr(stage, "train_many", fake)

    return replace


def table(result):
    return list(csv.DictReader(Path(result["sweep"], "sweep.csv").read_text().splitlines()))


def heads(result):
    return sorted(path.parent.name[:4] for path in Path(result["sweep"]).glob("*/head.safetensors"))


def test_a_sweep_trains_each_configuration_with_each_seed_as_train_does(settings, cache_path):
    result = sweep(settings(axes={"loss": "margin,infonce"}))
    assert (result["sweep"], result["runs"], result["failed"]) == ("runs/sweep-0001", 8, 0)
    rows = table(result)
    assert [row["run"] for row in rows[:3]] == [
        "0001-margin-linear-lr0.001-seed0",
        "0002-margin-linear-lr0.001-seed1",
        "0003-infonce-linear-lr0.001-seed0",
    ]
    for row in rows:
        config = TrainConfig(
            cache_path,
            runs_dir="alone",
            epochs=3,
            batch_size=8,
            loss=row["loss"],
            lr=float(row["lr"]),
            seed=int(row["seed"]),
        )
        alone = train(config)
        assert float(row["val_rsum"]) == pytest.approx(alone["val_rsum"], abs=1e-6)
        assert (row["kept_epoch"], row["epochs"]) == (str(alone["kept_epoch"]), "3")
        assert row["state"] == "complete"
    assert result["zero_shot"]["val_rsum"] == pytest.approx(alone["zero_shot_val_rsum"])


def test_the_leaderboard_is_the_means_and_sample_deviations_best_first(settings):
    result = sweep(settings(axes={"loss": "margin,infonce"}, seeds="0,1,5"))
    rows = table(result)
    expected = []
    for number in range(1, 5):
        values = [float(row["val_rsum"]) for row in rows if row["configuration"] == str(number)]
        assert len(values) == 3
        expected.append((np.mean(values), np.std(values, ddof=1), number))
        for row in rows[3 * number - 3 : 3 * number]:
            assert float(row["val_rsum_mean"]) == pytest.approx(expected[-1][0])
            assert float(row["val_rsum_std"]) == pytest.approx(expected[-1][1])
    expected.sort(key=lambda entry: -entry[0])
    entries = result["configurations"]
    assert [entry["number"] for entry in entries] == [number for _, _, number in expected]
    np.testing.assert_allclose(
        [(entry["val_rsum"]["mean"], entry["val_rsum"]["std"]) for entry in entries],
        [entry[:2] for entry in expected],
        atol=1e-12,
    )
    assert all(entry["seeds"] == [0, 1, 5] for entry in entries)
    assert result["chosen"]["number"] == entries[0]["number"]
    assert result["varied"] == ["loss", "lr"]
    assert result["fixed"]["epochs"] == 3
    assert not {"loss", "lr"} & set(result["fixed"])


def test_a_setting_that_a_configuration_has_no_use_for_has_no_value(settings, made_up):
    made_up(lambda config: 1.0)
    result = sweep(settings(axes={"loss": "margin,infonce", "margin": "0.1,0.3", "lr": "1e-3"}))
    settings = [(entry["settings"]["loss"], entry["settings"]["margin"]) for entry in result["configurations"]]
    assert settings == [("margin", 0.1), ("margin", 0.3), ("infonce", None)]
    assert [row["margin"] for row in table(result)] == ["0.1", "0.1", "0.3", "0.3", "", ""]
    assert "violation" not in result["fixed"]
    assert {"reduction", "temperature"} <= set(result["fixed"])


def test_test_figures_are_means_over_the_seeds_of_the_chosen_one_alone(settings):
    result = sweep(settings(seeds=3))
    best = result["configurations"][0]
    reports = [evaluate(EvalConfig(head=run)) for run in best["runs"]]
    for direction in WAYS:
        for cut in CUTS:
            values = [report["results"]["trained"][direction][cut] for report in reports]
            assert best["test"][direction][cut] == pytest.approx(
                {"mean": np.mean(values), "std": np.std(values, ddof=1)}
            )
    sums = [
        sum(report["results"]["trained"][direction][cut] for direction in WAYS for cut in CUTS) for report in reports
    ]
    assert best["test"]["rsum"] == pytest.approx({"mean": np.mean(sums), "std": np.std(sums, ddof=1)})
    assert result["chosen"]["test"] == best["test"]
    zero_shot = reports[0]["results"]["zero-shot"]
    assert result["zero_shot"]["test"]["t2i"]["R@5"] == {"mean": zero_shot["t2i"]["R@5"], "std": None}
    assert result["protocol"] == reports[0]["protocol"]
    assert [entry["test"] for entry in result["configurations"][1:]] == [None]


def test_only_the_test_split_of_the_chosen_one_is_looked_at(settings, monkeypatch):
    measured = []

    def spy(config):
        measured.append(config.head.name)
        return evaluate(config)

    monkeypatch.setattr(stage, "evaluate", spy)
    result = sweep(settings())
    assert measured == [Path(run).name for run in result["chosen"]["runs"]]


def test_test_all_measures_every_configuration_before_heads_go(settings):
    result = sweep(settings(test_all=True, axes={"loss": "margin,infonce"}))
    assert len(result["configurations"]) == 4
    for entry in result["configurations"]:
        assert entry["test"]["rsum"]["std"] is not None
        assert len(list(Path(result["sweep"]).glob("*/metrics.json"))) == 8
    assert result["test_all"]
    assert len(heads(result)) == 2


@pytest.mark.parametrize(("keep", "kept"), [(1, ["0005", "0006"]), (2, ["0003", "0004", "0005", "0006"]), (9, None)])
def test_the_heads_of_the_best_are_kept(settings, made_up, keep, kept):
    made_up(lambda config: {1e-4: 1.0, 1e-3: 2.0, 1e-2: 3.0}[config.lr] + 0.1 * config.seed)
    result = sweep(settings(axes={"lr": "1e-4,1e-3,1e-2"}, keep_heads=keep))
    assert heads(result) == (kept or [f"{number:04d}" for number in range(1, 7)])
    best = result["configurations"][0]
    assert (best["settings"], best["val_rsum"]["mean"]) == ({"lr": 0.01}, pytest.approx(3.05))
    assert [row["seconds"] for row in table(result)] == ["1.5"] * 6


def test_of_equal_configurations_the_first_of_the_grid_is_chosen(settings, made_up):
    made_up(lambda config: 2.0)
    assert [entry["number"] for entry in sweep(settings())["configurations"]] == [1, 2]


def test_a_run_that_fails_leaves_the_sweep_alone(settings):
    result = sweep(settings(axes={"lr": "1e-3,1000", "weight_decay": "1,1e-3"}))
    rows = table(result)
    failed = [row for row in rows if row["state"] == "failed"]
    assert result["failed"] == len(failed) > 0
    reasons = ("the loss is nan at step ", "the head overflows float32 at step ")
    assert all(row["error"].startswith(reasons) and row["val_rsum"] == "" for row in failed)
    assert {row["lr"] for row in failed} == {"1000.0"}
    assert [bool(entry["failed"]) for entry in result["configurations"]] == [False, False, False, True]
    (remark,) = [remark for remark in result["remarks"] if "failed" in remark]
    assert remark == f"{len(failed)} of 8 runs failed, first {failed[0]['run']}: {failed[0]['error'].removesuffix('.')}"
    assert not list(Path(result["sweep"]).glob("*/checkpoint.safetensors"))


def test_a_configuration_that_fails_with_one_seed_comes_after_those_that_do_not(settings, made_up):
    def score(config):
        if config.lr == 0.1 or (config.lr == 0.01 and config.seed == 1):
            return "it broke."
        return 5.0 if config.lr == 0.01 else 1.0

    made_up(score)
    result = sweep(settings(axes={"lr": "0.1,0.01,0.001"}))
    entries = result["configurations"]
    assert [entry["settings"]["lr"] for entry in entries] == [0.001, 0.01, 0.1]
    assert entries[1]["failed"] == {"1": "it broke."}
    assert entries[1]["val_rsum"] == {"mean": 5.0, "std": None}
    assert (entries[2]["val_rsum"], entries[2]["failed"]) == (None, {"0": "it broke.", "1": "it broke."})
    assert entries[0]["val_rsum"] == {"mean": 1.0, "std": 0.0}
    assert [row["val_rsum_mean"] for row in table(result)] == ["", "", "", "", "1.0", "1.0"]


def test_a_sweep_of_which_all_runs_fail_is_an_error(settings, made_up):
    made_up(lambda config: "it broke.")
    with pytest.raises(TrainingError) as caught:
        sweep(settings())
    assert str(caught.value) == (
        "all 4 runs of runs/sweep-0001 failed; the first, 0001-margin-linear-lr0.001-seed0: it broke."
    )


def test_remarks_of_runs_are_reported_once(settings):
    result = sweep(settings(axes={"batch_size": "8,1000", "patience": "1", "lr": "1e-5", "epochs": "20"}))
    (remark,) = result["remarks"]
    assert remark.startswith("--batch-size 1,000 is more than the 36 training images;")
    assert remark.endswith("(in 2 runs)")


def test_early_stopping_shows_in_the_epochs(settings):
    result = sweep(settings(axes={"patience": "1", "lr": "1e-6", "epochs": "20"}))
    assert result["remarks"] == []
    assert all(int(row["epochs"]) < 20 for row in table(result))


def strip(result):
    """A result without the fields that differ between two sweeps of the same settings."""
    text = json.dumps({name: value for name, value in result.items() if name not in ("sweep", "seconds")})
    return text.replace(result["sweep"], "SWEEP")


@pytest.mark.parametrize(
    ("stack", "reports"),
    [
        (1, 5),
        *(pytest.param(1, reports, marks=pytest.mark.ci) for reports in (1, 2, 8, 13)),
        (None, 2),
        *(pytest.param(None, reports, marks=pytest.mark.ci) for reports in (1, 5)),
    ],
)
def test_an_interrupted_sweep_resumes_to_the_same_result(settings, reports, stack):
    whole = sweep(settings(stack=stack))
    begun = []
    with pytest.raises(KeyboardInterrupt):
        sweep(settings(stack=stack), on_progress=StopAfter(reports), on_begin=begun.append)
    (folder,) = begun
    assert folder == Path("runs/sweep-0002")
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    assert strip(resume_sweep(folder)) == strip(whole)
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())


def test_a_sweep_that_was_interrupted_while_it_measured_trains_nothing_again(settings, monkeypatch):
    whole = sweep(settings(seeds=3))

    def stop(progress):
        if progress.phase == "test" and progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(settings(seeds=3), on_progress=stop)
    monkeypatch.setattr(stage, "train_many", None)
    resumed = resume_sweep("runs/sweep-0002")
    assert strip(resumed) == strip(whole)
    assert resume_sweep("runs/sweep-0002") == resumed


def test_runs_that_failed_before_an_interruption_stay_failed(settings, made_up, monkeypatch):
    made_up(lambda config: "it broke." if config.lr == 1e-3 else 2.0)
    monkeypatch.setattr(stage, "evaluate", lambda config: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        sweep(settings())
    monkeypatch.setattr(stage, "evaluate", evaluate)
    monkeypatch.setattr(stage, "train_many", None)
    result = resume_sweep("runs/sweep-0001")
    assert [row["state"] for row in table(result)] == ["failed", "failed", "complete", "complete"]


def test_a_run_whose_folder_was_only_made_is_begun_again(settings):
    with pytest.raises(KeyboardInterrupt):
        sweep(settings(stack=1), on_progress=StopAfter(2))
    folder = Path("runs/sweep-0001/0004-margin-linear-lr0.01-seed1")
    for path in folder.iterdir():
        path.unlink()
    (folder / "config.json.part").write_text("{")
    assert resume_sweep("runs/sweep-0001")["runs"] == 4


def test_resuming_a_sweep_does_not_need_the_grid_again(settings, tmp_path):
    grid = tmp_path / "sweep.yaml"
    grid.write_text("lr: {low: 1e-4, high: 1e-2, scale: log}\nbatch_size: 8\nepochs: 2\n")
    begun = []
    config = SweepConfig(settings().cache, grid=grid, random=3, seeds=1)
    with pytest.raises(KeyboardInterrupt):
        sweep(config, on_progress=StopAfter(1), on_begin=begun.append)
    grid.unlink()
    result = resume_sweep(begun[0])
    assert len({entry["settings"]["lr"] for entry in result["configurations"]}) == 3


def test_sweeps_are_numbered_or_named(settings, made_up):
    made_up(lambda config: 1.0)
    names = [sweep(settings(name=name))["sweep"] for name in (None, "mine", None)]
    assert names == ["runs/sweep-0001", "runs/mine", "runs/sweep-0002"]
    with pytest.raises(RunError) as caught:
        sweep(settings(name="mine"))
    assert str(caught.value) == "runs/mine exists already; give another --name, or delete it."


def test_the_command_of_the_chosen_trains_its_like(settings):
    result = sweep(settings(axes={"loss": "infonce", "temperature": "0.05,0.1"}))
    best = result["chosen"]
    assert best["command"] == (
        f"clipret train --cache {result['cache']} --loss infonce --temperature {best['settings']['temperature']} "
        f"--epochs 3 --batch-size 8 --lr {best['settings']['lr']} --device cpu"
    )


def test_the_result_is_kept_and_json_holds_it(settings):
    result = sweep(settings())
    content = json.loads(Path(result["sweep"], "sweep.json").read_text())
    assert content["result"] == result == json.loads(json.dumps(result))
    assert result["seconds"] > 0


def test_names_of_runs_are_names_of_folders(settings, made_up):
    made_up(lambda config: 1.0)
    result = sweep(settings(axes={"margin": "0.5:0.1,auto:0.9", "lr": "1e-3"}, seeds=1))
    assert [row["run"] for row in table(result)] == [
        "0001-margin-linear-margin0.5_0.1-seed0",
        "0002-margin-linear-marginauto_0.9-seed0",
    ]


def test_a_cache_without_val_is_refused_before_anything_is_made(settings, tmp_path):
    splits = np.resize(np.array([0, 0, 2], dtype=np.uint8), 60)
    path = write_cache(tmp_path / "no_val.h5", contents(image_splits=splits))
    with pytest.raises(UsageError) as caught:
        sweep(settings(cache=path))
    assert str(caught.value) == (
        f"{path} has no val split, by which a sweep ranks its configurations: split 'val' has 0 usable images and 0 "
        f"captions, expected at least one of each; images a split in this cache: train 40, val 0, test 20, restval 0. "
        f"Extract with a val split, or train single runs with: clipret train --cache {path}"
    )
    assert not Path("runs").exists()


def test_a_cache_without_test_gives_the_leaderboard_alone(settings, tmp_path):
    splits = np.resize(np.array([0, 0, 1], dtype=np.uint8), 60)
    path = write_cache(tmp_path / "no_test.h5", contents(image_splits=splits))
    result = sweep(settings(cache=path))
    assert result["chosen"]["test"] is result["zero_shot"]["test"] is result["protocol"] is None
    assert result["remarks"] == [
        "no test figures: split 'test' has 0 usable images and 0 captions, expected at least one of each; images a "
        "split in this cache: train 40, val 20, test 0, restval 0"
    ]


def test_a_cache_that_changed_since_is_refused(settings, cache_path):
    with pytest.raises(KeyboardInterrupt):
        sweep(settings(), on_progress=StopAfter(2))
    cache_path.unlink()
    write_cache(cache_path, contents(inputs={**contents().inputs, "prompt": "a {}"}))
    with pytest.raises(CacheMismatchError) as caught:
        resume_sweep("runs/sweep-0001")
    text = str(caught.value)
    assert text.startswith(f"{cache_path} is not the cache that runs/sweep-0001 was begun with: its fingerprint is ")
    assert text.endswith("; start a new sweep on it.")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "{folder} is not a sweep: it has no sweep.json; expected a folder made by clipret sweep."),
        (
            '{"format": 2}',
            "{file} cannot be read: it is of format 2; this clipret reads format 1; start the sweep again with this ",
        ),
        (
            '{"format": 1}',
            "{file} cannot be read: it lacks the field cache; start the sweep again with this clipret.",
        ),
        ("[]", "{file} cannot be read: it is a list; expected an object; start the sweep again with this clipret."),
        ("{", "{file} cannot be read: it is not JSON: Expecting property name enclosed in double quotes, line 1, "),
    ],
)
def test_a_folder_that_is_not_a_sweep_is_reported(tmp_path, content, text):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(RunError) as caught:
        resume_sweep(tmp_path)
    assert str(caught.value).startswith(text.format(folder=tmp_path, file=tmp_path / "sweep.json"))


def test_a_full_disk_is_reported_with_the_command_that_resumes(settings, monkeypatch):
    real = Path.write_text

    def write(path, *arguments, **options):
        if path.name.startswith("sweep.csv"):
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", write)
        with pytest.raises(RunError) as caught:
            sweep(settings())
    assert str(caught.value) == (
        "cannot write runs/sweep-0001/sweep.csv: No space left on device. Runs that were trained are kept; once that "
        "is fixed, go on with: clipret sweep --resume runs/sweep-0001"
    )
    assert resume_sweep("runs/sweep-0001")["runs"] == 4
