import itertools
from pathlib import Path

import pytest

from clipret.config import TrainConfig
from clipret.config.recipes import recipe_settings
from clipret.config.sweeps import SWEPT, SweepConfig
from clipret.errors import UsageError
from clipret.sweeps.combining import configurations, varied
from tests.helpers import system


def laughs():
    """Ten lists, each ten times the one before: a few hundred bytes, ten billion values."""
    text = "&a0 [" + ",".join("1" * 10) + "]"
    for depth in range(1, 10):
        text = f"&a{depth} [{text}," + ",".join([f"*a{depth - 1}"] * 9) + "]"
    return f"lr: [{text}]"


LAUGHS = laughs()


def combine(**settings):
    return configurations(SweepConfig("c.h5", **settings))


@pytest.fixture
def grid(tmp_path):
    def write(text):
        path = tmp_path / "sweep.yaml"
        path.write_text(text)
        return path

    return write


def refusal(**settings):
    with pytest.raises(UsageError) as caught:
        combine(**settings)
    return str(caught.value)


def test_all_combinations_come_in_the_order_of_the_axes():
    configs = combine(axes={"margin": "0,0.2", "lr": "1e-4,3e-4"}, memory_limit=2, device="cpu")
    assert configs == [
        TrainConfig("c.h5", margin=margin, lr=lr, memory_limit=2, device="cpu")
        for margin, lr in itertools.product((0.0, 0.2), (1e-4, 3e-4))
    ]
    assert varied(configs) == ["margin", "lr"]


def test_nothing_given_is_one_configuration_of_defaults():
    assert combine() == [TrainConfig("c.h5")]
    assert varied(combine()) == []


@pytest.mark.parametrize(
    ("axes", "count"),
    [
        ({"loss": "margin,infonce", "margin": "0,0.1,0.2"}, 4),
        ({"loss": "margin,triplet,sigmoid", "margin": "0,0.2", "reduction": "balanced,mean"}, 7),
        ({"loss": "margin,triplet", "violation": "max,sum"}, 3),
        ({"loss": "margin,infonce", "temperature": "none,0.05"}, 3),
        ({"head": "linear,adapter", "adapter_ratio": "0.2,0.5", "adapter_relu": "true,false"}, 5),
        ({"head": "linear,adapter", "adapter_reduction": "2,4"}, 3),
        ({"init": "clip,ridge", "ridge": "0.1,1,10"}, 4),
        ({"schedule": "constant,step", "step_epochs": "1,2", "step_factor": "0.1,0.5"}, 5),
        ({"steps": "none,50", "epochs": "5,10"}, 3),
        ({"margin": "0.1,0.10,auto,auto:0.9"}, 3),
    ],
)
def test_settings_that_a_combination_has_no_use_for_make_no_combinations(axes, count):
    configs = combine(axes=axes)
    assert len(configs) == len(set(configs)) == count


@pytest.mark.parametrize(
    ("axes", "text"),
    [
        (
            {"loss": "infonce", "margin": "0,0.1"},
            "--margin is of no use to any combination: it is for --loss margin or triplet.",
        ),
        (
            {"temperature": "0.05"},
            "--temperature is of no use to any combination: it is for --loss infonce or sigmoid.",
        ),
        ({"ridge": "1,2"}, "--ridge is of no use to any combination: it is for --init ridge."),
        ({"steps": "10", "epochs": "5"}, "--epochs is of no use to any combination: it is for --steps none."),
        (
            {"loss": "margin,hinge"},
            "--loss is 'hinge'; expected one of: margin, infonce, triplet, sigmoid, or FILE.py:NAME.",
        ),
        ({"margin": "0.1,2"}, "--margin is 2.0; expected a value from -1 to 1."),
        ({"lr": "1e-4,nan"}, "--lr is nan; expected a value above 0, at most 1000."),
        (
            {"head": "linear,adapter", "init": "clip,ridge"},
            "--init ridge is for --head linear, mlp, gated; the head is adapter.",
        ),
        (
            {"lr": {"low": 1e-4, "high": 1e-2}},
            "--lr has a range, which is for random search; give --random N, or a list of values.",
        ),
        (
            {name: ",".join(str(value / 100) for value in range(1, 60)) for name in ("lr", "beta1", "weight_decay")},
            "the settings have 205,379 combinations, more than 100,000; draw some of them with --random N.",
        ),
    ],
)
def test_an_invalid_combination_is_reported(axes, text):
    assert refusal(axes=axes) == text


def test_a_file_holds_values_lists_and_text_with_commas(grid):
    path = grid("loss: [margin, infonce]\nmargin: 0:0.2,auto\nlr: [1e-4, 3.0e-4]\nema: [null, 0.9]\nhead: linear\n")
    configs = combine(grid=path)
    assert len(configs) == (2 + 1) * 2 * 2
    assert {config.margin for config in configs} == {"0:0.2", "auto", 0.1}
    assert {config.lr for config in configs} == {1e-4, 3e-4}
    assert {config.ema for config in configs} == {None, 0.9}


def test_a_list_of_mappings_is_the_union_of_their_grids(grid):
    path = grid("- {loss: margin, margin: [0.1, 0.2]}\n- {loss: infonce, temperature: 0.05}\n- {margin: 0.2}\n")
    assert combine(grid=path) == [
        TrainConfig("c.h5", margin=0.1),
        TrainConfig("c.h5", margin=0.2),
        TrainConfig("c.h5", loss="infonce", temperature=0.05),
    ]


def test_options_hold_for_all_of_a_file_and_replace_what_it_says(grid):
    path = grid("- {loss: margin, lr: [1, 2, 3]}\n- {loss: infonce}\n")
    configs = combine(grid=path, axes={"lr": "1e-4,3e-4", "margin": "0.3"})
    assert [(config.loss, config.lr, config.margin) for config in configs] == [
        ("margin", 1e-4, 0.3),
        ("margin", 3e-4, 0.3),
        ("infonce", 1e-4, 0.1),
        ("infonce", 3e-4, 0.1),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: fast", "{path}: --lr is 'fast'; expected a number."),
        ("speed: 1", f"{{path}}: 'speed' is not a setting that a sweep varies; expected some of: {', '.join(SWEPT)}."),
        ("lr: []", "{path}: --lr has no value; expected one or more, with commas between."),
        ("lr:", "{path}: --lr has no value; expected one or more, with commas between."),
        ("lr: [1, 2", "{path}, line 1 is not YAML: expected ',' or ']', but got '<stream end>'."),
        ("lr: 1\nloss: margin\nlr: 2", "{path}, line 3 is not a grid: lr comes twice."),
        (
            "a text",
            "{path} is not a grid; expected a mapping such as `lr: [1e-4, 3e-4]`, or a list of mappings.",
        ),
        ("", "{path} is not a grid; expected a mapping such as `lr: [1e-4, 3e-4]`, or a list of mappings."),
        ("[]", "{path} is not a grid; expected a mapping such as `lr: [1e-4, 3e-4]`, or a list of mappings."),
        ("- lr: 1\n- 2", "{path} is not a grid; expected a mapping such as `lr: [1e-4, 3e-4]`, or a list of mappings."),
        (
            "lr: !!python/object:os.system x",
            "{path}, line 1 is not a grid: tag:yaml.org,2002:python/object:os.system is a tag; write the value alone.",
        ),
        ("lr: !mine [1]", "{path}, line 1 is not a grid: !mine is a tag; write the value alone."),
        ("lr: &a [1]\nmargin: *a", "{path}, line 1 is not a grid: &a is an alias; write the values out."),
        ("lr: [1]\nmargin: *a", "{path}, line 2 is not a grid: *a is an alias; write the values out."),
        (LAUGHS, "{path}, line 1 is not a grid: &a9 is an alias; write the values out."),
        ("lr: " + "[" * 3000 + "]" * 3000, "{path}, line 1 is not a grid: it nests deeper than 4 levels."),
        ("lr: " + "[" * 100_000, "{path}, line 1 is not a grid: it nests deeper than 4 levels."),
        ("- - - - - 1", "{path}, line 1 is not a grid: it nests deeper than 4 levels."),
        (
            "? [1, 2]\n: 3",
            "{path}, line 1 is not a grid: a list or a mapping stands where the name of a setting is expected.",
        ),
        ("lr: 2020-01-01", "{path}: --lr is '2020-01-01'; expected a number."),
        ("<<: {lr: 1}", f"{{path}}: '<<' is not a setting that a sweep varies; expected some of: {', '.join(SWEPT)}."),
        ("lr: 1\n---\nlr: 2", "{path}, line 2 is not YAML: but found another document."),
        ("lr: [" + "1," * 20_000 + "]", "{path}: --lr has 20,000 values; expected at most 10,000."),
        ("lr: " + "1" * 300_000, "{path} cannot be read: it is larger than 262,144 bytes."),
        ("lr: {low: 0, high: 1e300}", "{path}: --lr is '1e300'; expected a number as the end of its range."),
        ("epochs: {low: 0, high: 1e30}", "{path}: --epochs is '1e30'; expected a whole number."),
        (
            "epochs: {low: 0, high: " + "9" * 30 + "}",
            "{path}: --epochs is '" + "9" * 30 + "'; expected a number as the end of its range.",
        ),
    ],
)
def test_an_invalid_file_is_reported(grid, text, message):
    path = grid(text)
    assert refusal(grid=path) == message.format(path=path)


def test_text_that_yaml_cannot_read_is_a_one_line_error(grid):
    path = grid("lr: \x01")
    text = refusal(grid=path)
    assert text.startswith(f"{path} is not YAML: unacceptable character #x0001: special characters are not allowed")
    assert "\n" not in text


def test_anything_but_a_regular_file_is_reported_and_not_opened(tmp_path):
    path = tmp_path / "sweep.yaml"
    system.make_pipe(path)
    assert refusal(grid=path) == f"{path} cannot be read: it is a pipe, not a file."
    assert refusal(grid=Path("/dev/zero")) == "/dev/zero cannot be read: it is a device, not a file."


def test_a_missing_or_binary_file_is_reported(tmp_path):
    path = tmp_path / "sweep.yaml"
    assert refusal(grid=path) == f"there is no {path}; expected a YAML file with settings and their values."
    path.write_bytes(b"\xff\xfe\xff")
    assert refusal(grid=path) == f"{path} is not UTF-8 text: byte 0 is 0xff."
    assert refusal(grid=tmp_path) == f"{tmp_path} cannot be read: it is a folder, not a file."


AXES = {"loss": "margin,infonce", "margin": "0,0.1,0.2", "lr": "1e-4,3e-4,1e-3", "batch_size": "8,16"}


def test_a_random_search_draws_other_combinations_of_the_grid_each_once():
    whole = combine(axes=AXES)
    drawn = combine(axes=AXES, random=10)
    assert len(set(drawn)) == len(drawn) == 10
    assert set(drawn) < set(whole)
    assert combine(axes=AXES, random=10) == drawn
    assert combine(axes=AXES, random=10, seed=1) != drawn
    assert combine(axes=AXES, random=len(whole)) == whole


@pytest.mark.ci
def test_every_combination_is_drawn_as_often_as_another():
    whole = combine(axes=AXES)
    counts = dict.fromkeys(whole, 0)
    for seed in range(600):
        for config in combine(axes=AXES, random=4, seed=seed):
            counts[config] += 1
    assert all(60 < count < 140 for count in counts.values()), counts.values()


def test_ranges_and_lists_are_drawn_together(grid):
    path = grid("lr: {low: 1e-5, high: 1e-2, scale: log}\nloss: [margin, infonce]\nbatch_size: {low: 4, high: 6}\n")
    drawn = combine(grid=path, random=60)
    assert len(set(drawn)) == 60
    assert all(1e-5 <= config.lr <= 1e-2 for config in drawn)
    assert {config.loss for config in drawn} == {"margin", "infonce"}
    assert {config.batch_size for config in drawn} == {4, 5, 6}
    assert combine(grid=path, random=60) == drawn


def test_a_grid_too_large_to_write_down_is_drawn_from():
    numbers = ",".join(str(value / 1000) for value in range(1, 999))
    drawn = combine(axes={"lr": numbers, "beta1": numbers, "weight_decay": numbers, "ema": numbers}, random=20)
    assert len(set(drawn)) == 20


@pytest.mark.parametrize(
    ("axes", "count"), [({"lr": "1,2,3", "beta1": "0.1,0.2"}, 6), ({"batch_size": {"low": 1, "high": 4}}, 4)]
)
def test_more_combinations_than_exist_cannot_be_drawn(axes, count):
    assert refusal(axes=axes, random=7) == (
        f"--random is 7, but there are only {count} different combinations; draw fewer, or train all."
    )


def test_a_recipe_holds_where_nothing_else_is_said(grid):
    strong = recipe_settings("strong")
    path = grid("- lr: [1e-5]\n- head: [linear]\n")
    first, second = configurations(SweepConfig("made.h5", recipe="strong", grid=path, axes={"epochs": "3"}))
    assert {name: getattr(first, name) for name in strong} == strong | {"lr": 1e-5}
    assert (second.head, second.loss, second.lr) == ("linear", strong["loss"], strong["lr"])
    assert (first.epochs, second.epochs) == (3, 3)
    # A setting that is of use beside the recipe alone.
    (config,) = configurations(SweepConfig("made.h5", recipe="strong", axes={"hidden": "7"}))
    assert config.hidden == 7
    with pytest.raises(UsageError, match=r"^--margin is of no use to any combination: it is for --loss margin or"):
        configurations(SweepConfig("made.h5", recipe="strong", axes={"margin": "0.1"}))
    with pytest.raises(UsageError, match=r"^--recipe is 'weak'; expected one of: strong"):
        SweepConfig("made.h5", recipe="weak")
