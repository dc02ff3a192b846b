import numpy as np
import pytest

from clipret.config import TrainConfig
from clipret.config.sweeps import SWEPT, Range, SweepConfig
from clipret.errors import UsageError


def refusal(**settings):
    with pytest.raises(UsageError) as caught:
        SweepConfig("c.h5", **settings)
    return str(caught.value)


def test_every_setting_of_a_training_can_be_swept_but_those_that_the_sweep_decides():
    own = {"cache", "name", "runs_dir", "memory_limit", "log", "seed", "device"}
    assert set(SWEPT) == set(TrainConfig.__dataclass_fields__) - own


def test_text_with_commas_becomes_values_of_the_settings_own_types():
    axes = SweepConfig(
        "c.h5",
        axes={
            "loss": "margin, infonce",
            "margin": "0,0.1,0.5:0.1,auto:0.8",
            "ridge": "auto,1e-2",
            "epochs": "5,10",
            "temperature": "none,0.05",
            "ema": "none",
            "lr": "1e-4",
            "adapter_relu": "true,False",
        },
    ).axes
    assert axes == {
        "loss": ("margin", "infonce"),
        "margin": (0.0, 0.1, "0.5:0.1", "auto:0.8"),
        "ridge": ("auto", 0.01),
        "epochs": (5, 10),
        "temperature": (None, 0.05),
        "ema": (None,),
        "lr": (1e-4,),
        "adapter_relu": (True, False),
    }
    assert all(type(value) is int for value in axes["epochs"])


def test_values_may_come_as_python_has_them_and_equal_ones_come_once():
    axes = SweepConfig("c.h5", axes={"lr": [1e-4, "1e-4", 3e-4], "steps": (None, 5.0), "loss": "margin"}).axes
    assert axes == {"lr": (1e-4, 3e-4), "steps": (None, 5), "loss": ("margin",)}


@pytest.mark.parametrize(
    ("setting", "seeds"),
    [("3", (0, 1, 2)), (2, (0, 1)), ("0,5,7", (0, 5, 7)), ("5,", (5,)), ([7, 3, 7], (7, 3)), (1, (0,))],
)
def test_seeds_are_a_count_or_a_list(setting, seeds):
    assert SweepConfig("c.h5", seeds=setting).seeds == seeds


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"seeds": "x"}, "--seeds is 'x'; expected how many, such as 3, or which, such as 0,5,7."),
        ({"seeds": ""}, "--seeds is ''; expected how many, such as 3, or which, such as 0,5,7."),
        ({"seeds": 0}, "--seeds is '0', which is none; expected how many, such as 3, or which, such as 0,5,7."),
        ({"seeds": "0,-1"}, "--seeds is -1; expected a value from 0 to 9,223,372,036,854,775,807."),
        ({"random": 0}, "--random is 0; expected 1 or more."),
        ({"keep_heads": 0}, "--keep-heads is 0; expected 1 or more."),
        ({"stack": 0}, "--stack is 0; expected 1 or more."),
        ({"device": "tpu"}, "--device is 'tpu'; expected one of: auto, cpu, cuda."),
        ({"name": "a/b"}, "--name is 'a/b'; expected the name of one folder, made below runs/."),
        (
            {"memory_limit": 0},
            "--memory-limit is 0; expected a value above 0, at most 1000000.",
        ),
        ({"axes": {"seed": "1,2"}}, "--seed is no setting that a sweep varies; give the seeds with --seeds."),
        (
            {"axes": {"log": "wandb"}},
            f"'log' is not a setting that a sweep varies; expected some of: {', '.join(SWEPT)}.",
        ),
        ({"axes": {"lr": ","}}, "--lr has no value; expected one or more, with commas between."),
        ({"axes": {"lr": "fast"}}, "--lr is 'fast'; expected a number."),
        ({"axes": {"lr": "none"}}, "--lr is 'none'; expected a number."),
        ({"axes": {"lr": None}}, "--lr is 'None'; expected one value."),
        ({"axes": {"lr": [[1, 2]]}}, "--lr is '[1, 2]'; expected one value."),
        ({"axes": {"lr": True}}, "--lr is 'True'; expected one value."),
        ({"axes": {"epochs": "1.5"}}, "--epochs is '1.5'; expected a whole number."),
        ({"axes": {"epochs": 1.5}}, "--epochs is '1.5'; expected a whole number."),
        ({"axes": {"patience": "x"}}, "--patience is 'x'; expected a whole number, or none."),
        ({"axes": {"adapter_relu": "maybe"}}, "--adapter-relu is 'maybe'; expected true or false."),
        (
            {"axes": {"loss": {"low": 1, "high": 2}}},
            "--loss is not a number and has no range; expected a list of values.",
        ),
        (
            {"axes": {"lr": {"low": 1, "max": 2}}},
            "--lr has a range of low, max; expected low, high and, if you like, scale.",
        ),
        ({"axes": {"lr": {}}}, "--lr has a range of nothing; expected low, high and, if you like, scale."),
        (
            {"axes": {"lr": {"low": 1, "high": 2, "scale": "cubic"}}},
            "--lr range's scale is 'cubic'; expected one of: linear, log.",
        ),
        ({"axes": {"lr": {"low": 2, "high": 1}}}, "--lr has a range from 2.0 to 1.0; expected low below high."),
        (
            {"axes": {"lr": {"low": 0, "high": 1, "scale": "log"}}},
            "--lr has a logarithmic range from 0.0; expected low above 0.",
        ),
        (
            {"axes": {"margin": {"low": "auto", "high": 1}}},
            "--margin is 'auto'; expected a number as the end of its range.",
        ),
        ({"axes": {"lr": {"low": 1, "high": "inf"}}}, "--lr is 'inf'; expected a number as the end of its range."),
        ({"axes": {"ema": {"low": "none", "high": 1}}}, "--ema is 'none'; expected a number as the end of its range."),
    ],
)
def test_invalid_values_are_reported(settings, text):
    assert refusal(**settings) == text


def test_a_range_is_uniform_in_itself_or_in_its_logarithm():
    generator = np.random.default_rng(0)
    axes = SweepConfig(
        "c.h5",
        axes={"lr": {"low": "1e-5", "high": "1e-1", "scale": "log"}, "margin": {"low": 0, "high": 1}},
    ).axes
    assert axes == {"lr": Range(1e-5, 1e-1, scale="log"), "margin": Range(0.0, 1.0)}
    for name, turned in (("lr", lambda value: (np.log10(value) + 5) / 4), ("margin", lambda value: value)):
        drawn = turned(np.array([axes[name].draw(generator) for _ in range(4000)]))
        counts = np.histogram(drawn, bins=4, range=(0, 1))[0]
        assert counts.sum() == 4000
        assert (abs(counts - 1000) < 120).all(), counts


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_an_integer_range_gives_integers_including_both_ends(scale):
    generator = np.random.default_rng(0)
    batch_sizes = SweepConfig("c.h5", axes={"batch_size": {"low": 2, "high": 5, "scale": scale}}).axes["batch_size"]
    drawn = [batch_sizes.draw(generator) for _ in range(300)]
    assert all(type(value) is int for value in drawn)
    assert set(drawn) == {2, 3, 4, 5}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"seeds": "1000000000"}, "--seeds is '1000000000'; expected at most 10,000 seeds."),
        ({"seeds": 10**30}, f"--seeds is '{10**30}'; expected at most 10,000 seeds."),
        ({"seeds": "9" * 5000}, f"--seeds is '{'9' * 57}...'; expected how many, such as 3, or which, such as 0,5,7."),
        ({"random": 10**9}, "--random is 1000000000; expected at most 100,000."),
        ({"keep_heads": 10**9}, "--keep-heads is 1000000000; expected at most 1,000,000."),
        ({"stack": 10**9}, "--stack is 1000000000; expected at most 100,000."),
        ({"memory_limit": float("nan")}, "--memory-limit is nan; expected a value above 0, at most 1000000."),
        ({"memory_limit": "2"}, "--memory-limit is 2; expected a number or none."),
        ({"test_all": "no"}, "--test-all is no; expected true or false."),
        ({"axes": {"lr": ",".join(["1"] * 1_000_000)}}, "--lr has 1,000,000 values; expected at most 10,000."),
    ],
)
def test_what_would_take_all_memory_is_refused_by_its_number(settings, text):
    assert refusal(**settings) == text
