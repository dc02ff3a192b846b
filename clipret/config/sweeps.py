"""Settings of a sweep: the values of training settings to try, and what to keep."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from clipret.config import shared
from clipret.config.checks import MOST_SEED, check_count, one_of, option_name, shortened, within
from clipret.config.recipes import RECIPE_HELP, RECIPES
from clipret.config.settings import check, documented, setting, settings_of, types_of
from clipret.config.training import TrainConfig
from clipret.errors import UsageError

_SWEEP = "Sweep"
# The training settings that a sweep may vary.
SWEPT = tuple(name for name, rule in settings_of(TrainConfig).items() if rule.swept)
SCALES = ("linear", "log")
# A sweep with more runs would take too long.
MOST_RUNS = 100_000
_MOST_VALUES = _MOST_SEEDS = 10_000
# Bound on the ends of a range, beyond the bounds of every setting.
_FARTHEST = 1e15
_NOTHING = ("none", "null", "~")
_SEED_FORMS = "how many, such as 3, or which, such as 0,5,7"


@dataclass(frozen=True)
class Range:
    """Numbers from low to high for random search, uniform or (log) log-uniform.

    whole  integers only, both ends included
    """

    low: float
    high: float
    scale: str = "linear"
    whole: bool = False

    def draw(self, generator: np.random.Generator) -> float | int:
        """A random number of the range, rounded to four digits for readability."""
        if self.whole and self.scale == "linear":
            return int(generator.integers(int(self.low), int(self.high), endpoint=True))
        if self.scale == "log":
            drawn = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = generator.uniform(self.low, self.high)
        drawn = min(max(float(f"{drawn:.4g}"), self.low), self.high)
        return round(drawn) if self.whole else drawn


Axes = dict[str, tuple | Range]


@documented
@dataclass(frozen=True)
class SweepConfig:
    """Settings of a sweep: trainings of many configurations, each with several seeds.

    axes  setting of TrainConfig (SWEPT) -> the values to try, in all combinations: a value, several, or comma-separated
          text; it overrides the grid, and both override the recipe
    """

    cache: Path = setting(help="Features to train on, by clipret extract; a.h5,b.h5: of several encoders side by side.")
    name: str | None = setting(None, "Folder of the sweep below --runs-dir.", shown="sweep-0001, ...")
    runs_dir: Path = shared.runs_dir()
    axes: Mapping[str, Any] = field(default_factory=dict)
    recipe: str | None = setting(None, RECIPE_HELP, shown="none", panel=_SWEEP, choices=tuple(RECIPES))
    grid: Path | None = setting(None, "YAML file: settings and their values, or a list of such.", panel=_SWEEP)
    random: int | None = setting(
        None, "Train this many randomly drawn combinations.", shown="all", panel=_SWEEP, at_least=1, at_most=MOST_RUNS
    )
    seeds: tuple[int, ...] = setting(
        (0, 1, 2), "Seeds of each combination: how many, or which: 0,5,7.", panel=_SWEEP, parse=str
    )
    seed: int = shared.seed("Decides which combinations --random draws.")
    keep_heads: int = setting(
        1, "Combinations, the best by validation, whose heads are kept.", panel=_SWEEP, at_least=1, at_most=1_000_000
    )
    soup: bool = setting(
        False,
        "Also average heads of the sweep, each taken only if val does not fall, and test the average.",
        panel=_SWEEP,
    )
    test_all: bool = setting(False, "Measure all on the test split, not the best one only.", panel=_SWEEP)
    stack: int | None = setting(
        None,
        "Runs trained at once.",
        shown="chosen automatically, limited by memory",
        panel="Machine",
        at_least=1,
        at_most=100_000,
    )
    memory_limit: float | None = shared.memory_limit(panel="Machine")
    device: str = shared.device()

    def __post_init__(self):
        check(self, beside=("seeds",))
        # Settings that a training shares are checked by its config, for the same messages.
        TrainConfig(self.cache, name=self.name, runs_dir=self.runs_dir)
        object.__setattr__(self, "axes", read_axes(self.axes))
        object.__setattr__(self, "seeds", _read_seeds(self.seeds))


def read_axes(words: Mapping[str, Any]) -> Axes:
    """Setting -> its values, converted to the setting's type, or their range.

    Raises UsageError when a name is not in SWEPT, or a value has another type; TrainConfig checks the bounds.
    """
    axes = {}
    for name, values in words.items():
        if name == "seed":
            raise UsageError("--seed is no setting that a sweep varies; give the seeds with --seeds.")
        if name not in SWEPT:
            raise UsageError(f"'{name}' is not a setting that a sweep varies; expected some of: {', '.join(SWEPT)}.")
        if isinstance(values, Mapping):
            axes[name] = _read_range(name, values)
            continue
        if isinstance(values, Range):
            axes[name] = values
            continue
        if isinstance(values, str):
            values = [word.strip() for word in values.split(",") if word.strip()]
        if not isinstance(values, list | tuple):
            values = [values]
        check_count(option_name(name), len(values), most=_MOST_VALUES)
        if not values:
            raise UsageError(f"--{option_name(name)} has no value; expected one or more, with commas between.")
        axes[name] = tuple(dict.fromkeys(_read_value(name, value) for value in values))
    return axes


def _read_value(name: str, value) -> Any:
    kinds = types_of(TrainConfig, name)
    word = value.lower() if isinstance(value, str) else value
    if NoneType in kinds and (word is None or word in _NOTHING):
        return None
    if bool in kinds:
        if word in (True, "true"):
            return True
        if word in (False, "false"):
            return False
        raise _wrong(name, value, expected="true or false")
    if value is None or isinstance(value, bool | list | tuple | Mapping):
        raise _wrong(name, value, expected="one value")
    for kind, read, expected in ((int, _whole, "a whole number"), (float, float, "a number")):
        if kind in kinds:
            try:
                return read(value)
            except (TypeError, ValueError, OverflowError):
                if str in kinds:
                    return str(value)
                expected += ", or none" if NoneType in kinds else ""
                raise _wrong(name, value, expected=expected) from None
    return str(value)


def _whole(value) -> int:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)


def _read_range(name: str, words: Mapping) -> Range:
    kinds, option = types_of(TrainConfig, name), option_name(name)
    if not {int, float} & set(kinds):
        raise UsageError(f"--{option} is not a number and has no range; expected a list of values.")
    if not {"low", "high"} <= set(words) <= {"low", "high", "scale"}:
        names = ", ".join(map(str, words)) or "nothing"
        raise UsageError(f"--{option} has a range of {names}; expected low, high and, if you like, scale.")
    low, high = (_end(name, words[end]) for end in ("low", "high"))
    scale = words.get("scale", SCALES[0])
    one_of(f"{option} range's scale", scale, allowed=SCALES)
    if not low < high:
        raise UsageError(f"--{option} has a range from {low} to {high}; expected low below high.")
    if scale == "log" and low <= 0:
        raise UsageError(f"--{option} has a logarithmic range from {low}; expected low above 0.")
    return Range(low, high, scale=scale, whole=int in kinds)


def _end(name: str, word) -> float | int:
    """An end of a range: a number of the setting's type; words such as auto are refused."""
    value = _read_value(name, word)
    if isinstance(value, str) or value is None or not abs(value) <= _FARTHEST:
        raise _wrong(name, word, expected="a number as the end of its range")
    return value


def _read_seeds(seeds: str | int | Iterable[int]) -> tuple[int, ...]:
    try:
        if isinstance(seeds, str):
            words = [int(word) for word in seeds.split(",") if word.strip()]
            numbers = words if "," in seeds else range(words[0])
        else:
            numbers = range(seeds) if isinstance(seeds, int) else list(map(int, seeds))
    except (TypeError, ValueError, IndexError, OverflowError):
        raise UsageError(f"--seeds is '{shortened(seeds)}'; expected {_SEED_FORMS}.") from None
    if numbers[_MOST_SEEDS:]:
        raise UsageError(f"--seeds is '{shortened(seeds)}'; expected at most {_MOST_SEEDS:,} seeds.")
    if not numbers:
        raise UsageError(f"--seeds is '{seeds}', which is none; expected {_SEED_FORMS}.")
    for seed in numbers:
        within("seeds", seed, low=0, high=MOST_SEED)
    return tuple(dict.fromkeys(numbers))


def _wrong(name: str, value, *, expected: str) -> UsageError:
    return UsageError(f"--{option_name(name)} is '{shortened(value)}'; expected {expected}.")
