"""What public functions return is a dict to programs, and the tables of the terminal to a notebook."""

import copy
import inspect
import json
import multiprocessing
import pickle
import re
from concurrent.futures import ProcessPoolExecutor

import pytest

import clipret
from clipret import CompareConfig, EvalConfig, SweepConfig, TrainConfig
from clipret.evaluation.stage import evaluate as stage
from clipret.reporting import FORMS, SECTIONS
from clipret.reporting.results import SHOWN, Result
from tests.helpers.drawing import drawn


@pytest.fixture(scope="module")
def trained(searchable, tmp_path_factory):
    """What train returned, of a run with a harmful name."""
    folder = tmp_path_factory.mktemp("runs")
    return clipret.train(TrainConfig(cache=searchable.cache, epochs=2, name='<script>"a"', runs_dir=folder))


@pytest.fixture(scope="module")
def measured(trained):
    return clipret.evaluate(EvalConfig(head=trained["run"], metrics=["R@1", "rsum"]))


def rows(text):
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]


def test_it_is_the_dict_of_the_stage(measured, trained):
    again = stage(EvalConfig(head=trained["run"], metrics=["R@1", "rsum"]))
    assert type(again) is dict
    assert measured == again
    assert again == measured
    assert json.dumps(measured) == json.dumps(again)
    for other in (pickle.loads(pickle.dumps(measured)), copy.copy(measured), copy.deepcopy(measured)):
        assert type(other) is Result
        assert other == measured
        assert other._repr_html_() == measured._repr_html_()
    assert repr(measured) == repr(again)


def test_an_evaluation_shows_the_tables_of_the_terminal(measured):
    text = measured._repr_html_()
    config = EvalConfig(metrics=["R@1", "rsum"])
    sheets = SECTIONS["evaluate"](measured, names=config.columns)
    assert text in FORMS["html"](sheets)
    labels = [row[0].strip() for row in rows(text)[1:]]
    assert labels == ["<strong class=\"bold\">t2i</strong>", "R@1", "<strong class=\"bold\">i2t</strong>", "R@1",
                      "<strong class=\"bold\">rsum</strong>"]  # fmt: skip
    value = f"{100 * measured['results']['trained']['t2i']['R@1']:.1f}"
    assert any(row[0].strip() == "R@1" and row[2].startswith(value) for row in rows(text))
    assert value in drawn(sheets)


def test_a_training_shows_what_it_came_to_and_harmful_names_as_text(trained):
    text = trained._repr_html_()
    assert "<script" not in text
    assert "&lt;script&gt;&quot;a&quot;" in text
    kept = f"kept: epoch {trained['kept_epoch']} of 2, val rsum"
    assert ["zero-shot, val rsum", f"{trained['zero_shot_val_rsum']:.3f}"] in rows(text)
    assert [kept, f"{trained['val_rsum']:.3f}"] in rows(text)


def test_a_training_without_val_says_what_it_kept():
    result = {"run": "r", "kept_epoch": 3, "epochs": 3, "val_rsum": None, "zero_shot_val_rsum": None, "steps": 1234,
              "train_images": 9, "seconds": 1.0, "remarks": ["a remark"]}  # fmt: skip
    text = Result(result, section="train", options={})._repr_html_()
    assert "a remark<br>kept: epoch 3 of 3: the cache has no val split to choose on" in text
    assert ["steps", "1,234"] in rows(text)
    assert "val rsum" not in text


@pytest.mark.ci
def test_a_sweep_and_a_comparison_show_their_tables(searchable, measured, tmp_path):
    axes = {"lr": "1e-4,1e-3", "epochs": "1"}
    swept = clipret.sweep(SweepConfig(cache=searchable.cache, axes=axes, seeds=(0,), runs_dir=tmp_path))
    assert swept._repr_html_() in FORMS["html"](SECTIONS["sweep"](swept))
    assert "0.0001" in swept._repr_html_()
    compared = clipret.compare(CompareConfig(runs=[measured["run"], "zero-shot"], metrics=["R@1"]))
    assert compared._repr_html_() in FORMS["html"](SECTIONS["compare"](compared))


def test_every_function_that_is_shown_is_public_and_is_itself_in_other_processes():
    for name, section in SHOWN.items():
        function = getattr(clipret, name)
        assert getattr(clipret, name) is function
        assert pickle.loads(pickle.dumps(function)) is function
        assert section in SECTIONS
        assert "on_progress" in inspect.signature(function).parameters
        assert function.__doc__


@pytest.mark.ci
def test_other_processes_return_it(measured, trained):
    config = EvalConfig(head=trained["run"], metrics=["R@1", "rsum"])
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        returned = pool.submit(clipret.evaluate, config).result(timeout=120)
    assert returned == measured
    assert returned._repr_html_() == measured._repr_html_()
