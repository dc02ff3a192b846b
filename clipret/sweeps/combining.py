"""Axes -> the configurations to train, without duplicates."""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clipret.config import TrainConfig
from clipret.config.checks import option_name
from clipret.config.recipes import recipe_settings
from clipret.config.sweeps import SWEPT, Axes, Range, SweepConfig, read_axes
from clipret.config.training import USED_WITH, in_use
from clipret.errors import UsageError
from clipret.machine.files import read_file

# A grid with more combinations takes too long; use random search.
_MOST_COMBINATIONS = 100_000
# Drawing stops after so many draws in a row without a new configuration (plus so many per configuration found).
_FRUITLESS, _FRUITLESS_PER_CONFIG = 1000, 10
# Total draws; they take a few seconds. Drawing each of 100,000 combinations at least once takes about 1,200,000.
_MOST_DRAWS = 2_000_000
# Limits of a grid file, a list of mappings of lists. Longer files take more than a second to parse.
_DEEPEST, _MOST_BYTES = 4, 1 << 18


def configurations(config: SweepConfig) -> list[TrainConfig]:
    """The configurations of a sweep in the order of the grid, with default seed and name.

    Settings that do not apply (a margin with InfoNCE) get their defaults, so that equal trainings occur once. Random
    search draws uniformly from all combinations, without replacement. With ranges, or more than 100,000 combinations,
    it draws a mapping of the grid uniformly and then each setting independently.

    Raises UsageError.
    """
    given = _read_grid(config)
    grid = [_of_recipe(config.recipe) | axes for axes in given]
    _refuse_useless(grid, given=given)
    count = sum(math.prod(len(values) for values in axes.values() if not isinstance(values, Range)) for axes in grid)
    ranged = [name for axes in grid for name, values in axes.items() if isinstance(values, Range)]
    if config.random is None and ranged:
        raise UsageError(
            f"--{option_name(ranged[0])} has a range, which is for random search; give --random N, or a list of values."
        )
    if config.random is None and count > _MOST_COMBINATIONS:
        raise UsageError(
            f"the settings have {count:,} combinations, more than {_MOST_COMBINATIONS:,}; draw some of them with "
            f"--random N."
        )
    generator = np.random.default_rng(config.seed)
    if ranged or count > _MOST_COMBINATIONS:
        return _draw(grid, config=config, generator=generator)
    different = list(dict.fromkeys(_build(values, config=config) for axes in grid for values in _product(axes)))
    if config.random is None:
        return different
    if config.random > len(different):
        raise _too_few(config.random, different=len(different))
    return [different[place] for place in sorted(generator.permutation(len(different))[: config.random])]


def varied(configs: list[TrainConfig]) -> list[str]:
    """Names of the settings that differ between configurations, in the order of TrainConfig."""
    return [name for name in SWEPT if len({getattr(config, name) for config in configs}) > 1]


def _read_grid(config: SweepConfig) -> list[Axes]:
    """The mappings of the grid, each merged with the axes of the command line."""
    if config.grid is None:
        return [dict(config.axes)]
    content = _load(config.grid)
    mappings = content if isinstance(content, list) else [content]
    if not mappings or not all(isinstance(mapping, Mapping) for mapping in mappings):
        raise UsageError(
            f"{config.grid} is not a grid; expected a mapping such as `lr: [1e-4, 3e-4]`, or a list of mappings."
        )
    try:
        return [read_axes(mapping) | dict(config.axes) for mapping in mappings]
    except UsageError as error:
        raise UsageError(f"{config.grid}: {error}") from None


class _Loader(yaml.BaseLoader):
    """Loads mappings, lists and text only, as safe as safe_load; a duplicate key is an error.

    Numbers stay text, as YAML 1.1 reads 1e-4 as text and the margin 0:0.2 as a base-60 number; settings are converted
    by their types. Aliases are refused, as a few bytes can expand to gigabytes, and so are tags, which create objects.
    """

    _depth = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refusal(
                f"{'*' if isinstance(event, yaml.AliasEvent) else '&'}{event.anchor} is an alias; write the values out",
                event,
            )
        if event.tag is not None:
            raise _refusal(f"{event.tag} is a tag; write the value alone", event)
        if self._depth == _DEEPEST:
            raise _refusal(f"it nests deeper than {_DEEPEST} levels", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        names = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal("a list or a mapping stands where the name of a setting is expected", key)
            if key.value in names:
                raise _refusal(f"{key.value} comes twice", key)
            names.add(key.value)
        return super().construct_mapping(node, deep)


def _refusal(problem: str, place) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=place.start_mark)


def _load(path: Path) -> Any:
    try:
        # Safe: the loader derives from BaseLoader, which creates no objects.
        return yaml.load(read_file(path, most=_MOST_BYTES).decode("utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UsageError(f"there is no {path}; expected a YAML file with settings and their values.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        what = "a grid" if isinstance(error, yaml.constructor.ConstructorError) else "YAML"
        raise UsageError(f"{path}{place} is not {what}: {problem}.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: byte {error.start:,} is {error.object[error.start]:#x}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None


def _of_recipe(name: str | None) -> Axes:
    return {} if name is None else {setting: (value,) for setting, value in recipe_settings(name).items()}


def _refuse_useless(grid: list[Axes], *, given: list[Axes]) -> None:
    """Raise UsageError for a given setting, not of the recipe, that no combination uses: that is a mistake."""
    for name, (decider, values) in USED_WITH.items():
        having = [axes for axes, own in zip(grid, given, strict=True) if name in own]
        if having and not any(_may_use(axes, decider, values=values) for axes in having):
            words = " or ".join("none" if value is None else str(value) for value in values)
            raise UsageError(
                f"--{option_name(name)} is of no use to any combination: it is for --{option_name(decider)} {words}."
            )


def _may_use(axes: Axes, decider: str, *, values: tuple) -> bool:
    options = axes.get(decider, (getattr(TrainConfig, decider),))
    return not isinstance(options, Range) and any(value in values for value in options)


def _product(axes: Axes) -> Iterator[dict[str, Any]]:
    return (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))


def _build(values: dict[str, Any], *, config: SweepConfig) -> TrainConfig:
    used = {name: value for name, value in values.items() if in_use(values, name)}
    return TrainConfig(config.cache, memory_limit=config.memory_limit, device=config.device, **used)


def _draw(grid: list[Axes], *, config: SweepConfig, generator: np.random.Generator) -> list[TrainConfig]:
    configs: dict[TrainConfig, None] = {}
    drawn, fruitless = set(), 0
    for _ in range(_MOST_DRAWS):
        if fruitless == _FRUITLESS + _FRUITLESS_PER_CONFIG * len(configs):
            break
        fruitless += 1
        axes = grid[generator.integers(len(grid))]
        values = {
            name: options.draw(generator) if isinstance(options, Range) else options[generator.integers(len(options))]
            for name, options in axes.items()
        }
        # Finds most duplicates in a tenth of the time that building a config takes.
        if (key := tuple(sorted(values.items(), key=_name_of))) in drawn:
            continue
        drawn.add(key)
        settings = _build(values, config=config)
        if settings not in configs:
            configs[settings], fruitless = None, 0
        if len(configs) == config.random:
            return list(configs)
    raise _too_few(config.random, different=len(configs))


def _name_of(item: tuple[str, Any]) -> str:
    return item[0]


def _too_few(wanted: int, *, different: int) -> UsageError:
    return UsageError(
        f"--random is {wanted:,}, but there are only {different:,} different combinations; draw fewer, or train all."
    )
