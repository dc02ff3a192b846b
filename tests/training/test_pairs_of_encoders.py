"""From features of two encoders that were never aligned to every table: nothing there is zero-shot."""

import json
from pathlib import Path

import numpy as np
import pytest

from clipret import FeatureCache, TrainConfig, evaluate, train
from clipret.config import EvalConfig
from clipret.errors import UsageError
from clipret.heads.files import load_head
from clipret.retrieval.baseline import baseline_projections
from clipret.runs import read_result
from tests.conftest import contents, write_cache
from tests.helpers import own
from tests.helpers.pair_caches import pair_contents, splits, write_pair_cache


@pytest.fixture
def call(run):
    """Run the command line on `pair.h5`, whose output says nothing of zero-shot; returns standard output."""
    write_pair_cache(Path("pair.h5"), images=120)

    def checked(*words):
        status, out, err = run(*words)
        assert status == 0, err
        # The name of an option, and of a record that is empty.
        said = (out + err).replace("--zero-shot", "").replace("zero_shot_val_rsum", "")
        assert not {word for word in ("zero-shot", "zero_shot", "CLIP's own") if word in said}, said
        return out

    return checked


def trained(**settings):
    """The run of a short training on `pair.h5`."""
    return train(TrainConfig(cache=Path("pair.h5"), **{"epochs": 2, "name": "a", **settings}))


def test_training_starts_in_closed_form_and_is_compared_with_it(call):
    assert "(closed-form " in call("train", "--cache", "pair.h5", "--epochs", "3", "--name", "a")
    result = read_result(Path("runs/a"))
    assert result["zero_shot_val_rsum"] is None
    assert result["val_rsum"] >= result["closed_form_val_rsum"] > 0
    cache = FeatureCache("pair.h5")
    start = train(TrainConfig(cache=cache.path, epochs=0, name="b"))
    assert start["val_rsum"] == start["closed_form_val_rsum"] == result["closed_form_val_rsum"]
    head = load_head(
        Path("runs/b/head.safetensors"),
        projections=baseline_projections(cache),
        weights_sha256=cache.inputs["weights_sha256"],
    )
    for name, values in baseline_projections(cache).items():
        if name != "logit_scale":
            np.testing.assert_array_equal(head.tensors[name.replace("/", "_")], values)


def test_training_can_start_at_random(call):
    call("train", "--cache", "pair.h5", "--epochs", "20", "--init", "random", "--loss", "infonce", "--name", "a")
    assert read_result(Path("runs/a"))["val_rsum"] > 0.3


def test_eval_sets_the_closed_form_beside_the_trained_head(call):
    trained()
    table = call("eval")
    assert "closed-form" in table.splitlines()[2]
    report = json.loads(Path("runs/a/metrics.json").read_text())
    assert list(report["results"]) == ["closed-form", "trained"]
    assert list(report["intervals"]["heads"]) == ["closed-form", "trained"]
    assert report["results"]["closed-form"]["t2i"]["R@10"] > 2 * 10 / 24
    call("eval", "--json")


def test_the_curve_of_wise_ft_begins_at_the_closed_form(call):
    trained(init="random")
    shown = call("eval", "--wise-ft", "0,0.5,1")
    assert "alpha 0 is closed-form, 1 is trained; " in shown
    report = json.loads(Path("runs/a/metrics.json").read_text())
    assert list(report["results"]) == ["closed-form", "wise-ft 0", "wise-ft 0.5", "wise-ft 1", "trained"]
    assert report["results"]["wise-ft 0"] == report["results"]["closed-form"]
    assert report["results"]["wise-ft 1"] == report["results"]["trained"]


def test_the_untrained_head_alone_is_the_closed_form(call):
    table = call("eval", "--zero-shot", "--cache", "pair.h5")
    assert table.splitlines()[2].split() == ["closed-form"]
    assert "closed-form, cache pair.h5" in call("failures", "--zero-shot", "--cache", "pair.h5")


@pytest.mark.ci
def test_comparisons_are_with_the_closed_form(call, run):
    for name, settings in {"a": {}, "b": {"seed": 1}, "c": {"lr": 1e-2}}.items():
        trained(name=name, **settings)
        evaluate(EvalConfig(head=Path("runs") / name, wise_ft=(0.5,)))
    shown = call("compare", "runs/a", "runs/b", "runs/c", "runs/a@0.5", "closed-form")
    assert "closed-form" in shown
    # It is no training with a seed, which another seed would make vary.
    assert "it is assumed to vary" in shown
    assert "it is assumed to vary" not in call("compare", "runs/a", "runs/b", "closed-form")
    records = json.loads(call("compare", "runs/a", "closed-form", "--json"))
    assert [group["label"] for group in records["groups"]] == ["a", "closed-form"]
    for suffix in ("csv", "md", "tex", "html"):
        call("compare", "runs/a", "closed-form", "--out", f"table.{suffix}")
        assert "zero-shot" not in Path(f"table.{suffix}").read_text()
    assert run("compare", "runs/a", "zero-shot")[2] == (
        "error: runs/a has no zero-shot beside it: its encoders have no projections of their own; compare it with "
        "closed-form.\n"
    )
    assert run("compare", "runs/a", "runs/b")[2] == (
        "error: runs/a, runs/b differ only in their seeds; add something to compare them with, such as closed-form.\n"
    )


def test_the_closed_form_of_an_encoder_with_projections_is_refused(run, tmp_path):
    write_cache(tmp_path / "pair.h5", contents())
    trained()
    evaluate(EvalConfig(head=Path("runs/a")))
    assert run("compare", "runs/a", "closed-form")[2] == (
        "error: runs/a has no closed-form beside it: its encoder has projections; compare it with zero-shot.\n"
    )


def test_failures_are_set_beside_the_closed_form(call):
    trained(lr=1e-2)
    shown = call("failures", "--head", "runs/a")
    assert "ranks against closed-form: " in shown
    assert json.loads(call("failures", "--json"))["heads"] == ["closed-form", "trained"]


@pytest.mark.ci
def test_sweeps_are_ranked_beside_the_closed_form(call):
    words = ["--cache", "pair.h5", "--lr", "1e-4,1e-3", "--seeds", "2", "--epochs", "2", "--test-all"]
    shown = call("sweep", *words)
    assert " closed-form " in shown
    folder = Path("runs/sweep-0001")
    result = json.loads((folder / "sweep.json").read_text())["result"]
    assert "zero_shot" not in result
    assert result["closed_form"]["test"]["rsum"]["mean"] > 0
    assert " closed-form " in call("sweep", "--resume", folder)
    assert "zero" not in (folder / "sweep.csv").read_text()


@pytest.mark.parametrize("init", ["procrustes", "ridge"])
@pytest.mark.parametrize("side", ["both", "image", "text"])
def test_other_solutions_start_from_the_closed_form(call, init, side):
    assert "closed-form" in call("train", "--cache", "pair.h5", "--init", init, "--train", side, "--epochs", "1")


def test_adapters_stand_behind_the_closed_form(call):
    call("train", "--cache", "pair.h5", "--head", "adapter", "--epochs", "0", "--name", "a")
    result = read_result(Path("runs/a"))
    assert result["val_rsum"] == result["closed_form_val_rsum"]
    call("eval", "--head", "runs/a", "--wise-ft", "0.5")


def test_heads_and_losses_of_the_users_own_get_the_closed_form(call, tmp_path):
    words = own.write(tmp_path)
    call(
        "train", "--cache", "pair.h5", "--epochs", "2", "--name", "a", "--head", words["head"], "--loss", words["loss"]
    )
    call("eval", "--head", "runs/a", "--wise-ft", "0.5")


def test_published_figures_are_none_of_theirs(call, run):
    trained()
    message = run("reproduce", "--cache", "pair.h5")[2]
    assert message.startswith("error: no published figure is of pair.h5: its model ")


def test_a_cache_says_that_it_has_no_projection(call, run):
    shown = " ".join(run("info", "pair.h5")[1].split())
    assert "projections none: the encoders were never aligned; heads start in closed form, and nothing is " in shown
    assert json.loads(run("info", "pair.h5", "--json")[1])["aligned"] is False


def test_merged_caches_have_no_projection_either(call, run, tmp_path):
    other = pair_contents(images=30, image_ids=[f"other {row}" for row in range(30)])
    other.caption_ids[:] = [f"other {name}" for name in other.caption_ids]
    write_cache(tmp_path / "other.h5", other, seed=1)
    call("merge", "pair.h5", "other.h5", "--out", "both.h5")
    merged = FeatureCache("both.h5")
    assert not merged.aligned
    assert len(merged.image_states) == 150
    call("verify", "both.h5")
    call("train", "--cache", "both.h5", "--epochs", "1")
    write_cache(tmp_path / "aligned.h5", contents(images=30, dtype="float32"), seed=1)
    assert "the encoder's projections" in run("merge", "pair.h5", "aligned.h5", "--out", "no.h5")[2]


def test_without_a_train_split_there_is_one_line(run, tmp_path):
    write_pair_cache(tmp_path / "test.h5", image_splits=splits(60, 1, 2))
    line = (
        "error: test.h5 is of two encoders without projections of their own, so that its untrained head is solved for "
        "on the train split: split 'train' has 0 usable images and 0 captions, expected at least one of "
        "each; images a split in this cache: train 0, "
        "val 30, test 30, restval 0.\n"
    )
    assert run("eval", "--zero-shot", "--cache", "test.h5")[2] == line
    assert run("failures", "--zero-shot", "--cache", "test.h5")[2] == line
    with pytest.raises(UsageError):
        train(TrainConfig(cache=tmp_path / "test.h5"))


def test_without_a_val_split_the_last_epoch_is_kept_and_no_figure_is_shown(run, tmp_path):
    write_pair_cache(tmp_path / "pair.h5", image_splits=splits(60, 0, 0, 2))
    status, out, _ = run("train", "--cache", "pair.h5", "--epochs", "2", "--name", "a")
    assert status == 0
    assert "kept the last epoch, 2: the cache has no val split to choose on." in out
    result = read_result(Path("runs/a"))
    assert result["zero_shot_val_rsum"] is result.get("closed_form_val_rsum") is None
    assert run("eval", "--head", "runs/a")[0] == 0
