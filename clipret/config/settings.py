"""Every setting is defined in one place, the field of its config: default, help, bounds and option.

    lr: float = setting(1e-4, "Learning rate of AdamW.", panel="Steps", above=0, at_most=1000, may_differ=True)

This gives the check of a config (check), the option of the command line and of a sweep with its help (cli/options.py),
the config's docstring (documented), and whether runs that are trained together may differ in it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from clipret.config import checks

_KEY = "setting"


@dataclasses.dataclass(frozen=True)
class Setting:
    """The description of a setting; its type and default are those of the field.

    help       description for --help and the docstring
    panel      panel of --help
    choices    the allowed values
    or_file    whether FILE.py:NAME, user-defined code, is allowed too
    at_least, above, at_most, below   bounds of numbers; None is accepted
    between    inclusive bounds that the message names together
    shown      the default as --help shows it, if the value itself is not clear
    option     names on the command line, if they differ from the field's
    metavar    placeholder of the value in --help
    auto       the word for None on the command line
    parse      text of the command line -> value, for tuples; by default comma-separated words
    positional a positional argument
    utf8       stored as text in files, so it must be valid UTF-8
    swept      whether a sweep may vary it
    used_with  a setting and those of its values with which this one is used; None: always used
    may_differ whether runs that are trained together may differ in it; a function: they must have equal results of it
    """

    help: str
    panel: str | None = None
    choices: tuple[str, ...] | None = None
    or_file: bool = False
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    between: tuple[float, float] | None = None
    shown: str | None = None
    option: tuple[str, ...] = ()
    metavar: str | None = None
    auto: str | None = None
    parse: Callable[[str], Any] | None = None
    positional: bool = False
    utf8: bool = False
    swept: bool = True
    used_with: tuple[str, tuple] | None = None
    may_differ: bool | Callable[[Any], Any] = False


def setting(default: Any = dataclasses.MISSING, help: str = "", **rules) -> Any:
    """A field of a config with its Setting; `rules` are fields of Setting. Without a default it is required."""
    return dataclasses.field(default=default, metadata={_KEY: Setting(help, **rules)})


@functools.cache
def settings_of(kind: type) -> Mapping[str, Setting]:
    """Name -> Setting, for every field of a config class that has one."""
    return MappingProxyType({field.name: field.metadata[_KEY] for field in dataclasses.fields(kind) if field.metadata})


def is_none(value: Any) -> bool:
    """Whether the value is None: for settings that all runs trained together must have, or none."""
    return value is None


@functools.cache
def types_of(kind: type, name: str) -> tuple:
    """The allowed types of a field, including NoneType if it may be None."""
    hint = get_type_hints(kind)[name]
    return get_args(hint) if get_origin(hint) is UnionType else (hint,)


@functools.cache
def _entry_of(kind: type, name: str) -> type | None:
    """The type of the items of a tuple field; None for other fields."""
    return next((get_args(part)[0] for part in types_of(kind, name) if get_origin(part) is tuple), None)


def check(config: Any, *, beside: tuple[str, ...] = ()) -> None:
    """Convert path settings to paths and lists to tuples, and check every value against its Setting.

    beside  settings that the config parses and checks itself

    Raises UsageError, with the option's name on the command line.
    """
    kind = type(config)
    rules = {name: rule for name, rule in settings_of(kind).items() if name not in beside}
    several = {name: entry for name in rules if (entry := _entry_of(kind, name)) is not None}
    checks.check_types(config, beside=beside)
    checks.as_paths(config, *(name for name in rules if Path in types_of(kind, name)))
    for name, entry in several.items():
        values = getattr(config, name)
        object.__setattr__(config, name, tuple(map(Path, values)) if entry is Path else tuple(values))
    checks.check_utf8(config, *(name for name, rule in rules.items() if rule.utf8))
    for name, rule in rules.items():
        value = getattr(config, name)
        for entry in value if isinstance(value, tuple) else (value,):
            if entry is not None:
                _check_value(checks.option_name(name), entry, rule)


def documented(kind: type) -> type:
    """Add the help of each setting to the docstring of a config class."""
    rules = settings_of(kind)
    width = max(map(len, rules))
    lines = [f"    {name:<{width}}  {rule.help}" for name, rule in rules.items()]
    kind.__doc__ = f"{(kind.__doc__ or '').rstrip()}\n\n" + "\n".join(lines) + "\n"
    return kind


def _check_value(option: str, value: Any, rule: Setting) -> None:
    if rule.choices is not None:
        checks.one_of(option, value, allowed=rule.choices, or_file=rule.or_file)
    if isinstance(value, str | bool | Path):
        return
    if rule.between is not None:
        checks.within(option, value, low=rule.between[0], high=rule.between[1])
    if rule.at_least is not None and rule.at_most is not None:
        checks.at_least(option, value, low=rule.at_least, at_most=rule.at_most)
    if rule.above is not None and rule.at_most is not None:
        checks.above(option, value, low=rule.above, at_most=rule.at_most)
    if rule.below is not None:
        checks.below(option, value, at_least=rule.at_least, above=rule.above, high=rule.below)
