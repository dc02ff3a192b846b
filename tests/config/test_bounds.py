"""Every numeric setting has bounds, and values of other types are refused."""

import dataclasses
import math
from typing import get_args, get_type_hints

import pytest

from clipret import config
from clipret.config import (
    CheckConfig,
    CompareConfig,
    DatasetConfig,
    DownloadConfig,
    EmbedConfig,
    EvalConfig,
    ExportConfig,
    ExtractConfig,
    FailuresConfig,
    FeaturesConfig,
    ImportConfig,
    LookConfig,
    MergeConfig,
    ReportConfig,
    ReproduceConfig,
    SearchConfig,
    ServeConfig,
    SweepConfig,
    TrainConfig,
    VerifyConfig,
)
from clipret.errors import UsageError

# The required settings of each.
LEAST = {
    CheckConfig: {"dataset": "x.csv"},
    CompareConfig: {"runs": ("a", "b")},
    DatasetConfig: {"dataset": "x.csv"},
    DownloadConfig: {"dataset": "coco"},
    EmbedConfig: {"cache": "c.h5", "out": "e.npy"},
    EvalConfig: {"cache": "c.h5"},
    ExportConfig: {"run": "r", "to": "clip", "out": "o"},
    ExtractConfig: {"dataset": "x.csv"},
    FailuresConfig: {"cache": "c.h5"},
    FeaturesConfig: {},
    ImportConfig: {"images": "x.npy", "out": "c"},
    LookConfig: {"cache": "c.h5"},
    MergeConfig: {"caches": ("a", "b"), "out": "c"},
    ReportConfig: {"runs": ("r",)},
    ReproduceConfig: {"cache": "c.h5"},
    SearchConfig: {"cache": "c.h5", "query": "a dog"},
    ServeConfig: {"cache": "c.h5"},
    SweepConfig: {"cache": "c.h5"},
    TrainConfig: {"cache": "c.h5"},
    VerifyConfig: {"cache": "c.h5"},
}
# Used only with other settings.
BESIDE = {"temperature": {"loss": "infonce"}}


def numbers():
    """(config, setting) of every setting that may be a number, or several."""
    for kind in LEAST:
        for name, hint in get_type_hints(kind).items():
            kinds = {*get_args(hint), hint}
            if {int, float} & kinds:
                yield kind, name, hint


def test_every_config_is_among_them():
    kinds = {kind for kind in vars(config).values() if dataclasses.is_dataclass(kind) and kind is not config.Margin}
    assert kinds == set(LEAST)


@pytest.mark.parametrize(
    ("kind", "name", "hint"), list(numbers()), ids=lambda part: getattr(part, "__name__", str(part))
)
def test_a_number_that_nobody_can_mean_is_refused(kind, name, hint):
    several = str(hint).startswith("tuple")
    for value in (10**40, -(10**40), math.nan, math.inf):
        with pytest.raises(UsageError) as caught:
            kind(**LEAST[kind], **BESIDE.get(name, {}), **{name: (value,) if several else value})
        assert f"--{name.replace('_', '-')} is" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epochs": 10**12}, "--epochs is 1000000000000; expected at most 1,000,000."),
        ({"steps": 10**12}, "--steps is 1000000000000; expected at most 1,000,000,000."),
        ({"batch_size": 10**9}, "--batch-size is 1000000000; expected at most 1,000,000."),
        ({"hard_negatives": 10**6}, "--hard-negatives is 1000000; expected at most 1,000."),
        ({"patience": 10**9}, "--patience is 1000000000; expected at most 1,000,000."),
        ({"warmup": 10**10}, "--warmup is 10000000000; expected at most 1,000,000,000."),
        ({"seed": 2**63}, f"--seed is {2**63}; expected a value from 0 to {2**63 - 1:,}."),
        ({"lr": "1e-4"}, "--lr is 1e-4; expected a number."),
        ({"epochs": 2.0}, "--epochs is 2.0; expected a whole number."),
        ({"epochs": True}, "--epochs is True; expected a whole number."),
        ({"adapter_relu": 1}, "--adapter-relu is 1; expected true or false."),
        (
            {"loss": "a\n\x1b"},
            "--loss is 'a\\n\\x1b'; expected one of: margin, infonce, triplet, sigmoid, or FILE.py:NAME.",
        ),
        ({"name": 1}, "--name is 1; expected text or none."),
        ({"name": "a\0b"}, "--name is 'a\0b'; expected the name of one folder, made below runs/."),
        ({"margin": "auto:" + "9" * 400}, "--margin auto:Q is inf; expected a value from 0 to 1."),
        (
            {"loss": "x" * 99},
            f"--loss is '{'x' * 57}...'; expected one of: margin, infonce, triplet, sigmoid, or FILE.py:NAME.",
        ),
    ],
)
def test_the_settings_of_a_training_have_bounds_and_types(settings, text):
    with pytest.raises(UsageError) as caught:
        TrainConfig("c.h5", **settings)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"top": 10**9}, "--top is 1000000000; expected at most 10,000."),
        ({"block": 10**9}, "--block is 1000000000; expected at most 1,000,000."),
        ({"k": tuple(range(1, 102))}, "--k has 101 values; expected at most 100."),
        ({"metrics": ("R@1",) * 101}, "--metrics has 101 values; expected at most 100."),
        ({"wise_ft": tuple(place / 1000 for place in range(200))}, "--wise-ft has 200 values; expected at most 101."),
        ({"resamples": 10**9}, "--resamples is 1000000000; expected 0 for none, or a value from 100 to 1,000,000."),
        ({"seed": 2**63}, f"--seed is {2**63}; expected a value from 0 to {2**63 - 1:,}."),
    ],
)
def test_the_settings_of_an_evaluation_have_bounds(settings, text):
    with pytest.raises(UsageError) as caught:
        EvalConfig(cache="c.h5", **settings)
    assert str(caught.value) == text


def test_the_numbers_of_numpy_are_numbers():
    np = pytest.importorskip("numpy")
    assert TrainConfig("c.h5", lr=np.float32(0.5), epochs=np.int64(3)).epochs == 3
