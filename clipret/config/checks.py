"""Checks of settings. Each raises UsageError, with the option's name on the command line.

Every number has a lowest and a highest value, as values beyond them would take all memory or years to fail.
"""

import dataclasses
import os
import re
from collections.abc import Collection, Mapping
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from clipret.errors import UsageError

MOST_SEED = 2**63 - 1
_LONGEST = 60
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    NoneType: "none",
}
_CLASSES = {int: Integral, float: Real, Path: (str, os.PathLike)}


def as_paths(config, *names: str) -> None:
    """Convert these settings to paths, if they are set."""
    for name in names:
        value = getattr(config, name)
        if value is None:
            continue
        if "\0" in os.fspath(value):
            raise UsageError(f"--{option_name(name)} has a NUL character, which no path has.")
        try:
            os.fsencode(value)
        except UnicodeEncodeError as error:
            character = ascii(error.object[error.start])
            raise UsageError(f"--{option_name(name)} has the character {character}, which no path has.") from None
        object.__setattr__(config, name, Path(value))


def check_utf8(config, *names: str) -> None:
    """Check that these settings, which are stored as text, can be encoded as UTF-8, which not every path can."""
    for name in names:
        value = getattr(config, name)
        text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            what = "which is not UTF-8 and could not be kept as text"
            raise UsageError(f"--{option_name(name)} is {text!a}, {what}; expected another name.") from None


def check_types(config, *, beside: tuple[str, ...] = ()) -> None:
    """Check that every setting except those named in `beside` has the type of its field."""
    check_settings(type(config), {name: value for name, value in vars(config).items() if name not in beside})


def check_settings(kind: type, values: Mapping[str, Any]) -> None:
    """Check settings, by name, against the types of the config's fields; unknown names are ignored."""
    for name, kinds in _kinds(kind).items():
        if name in values and not any(_fits(values[name], expected) for expected in kinds):
            words = [_WORDS.get(expected, "a list") for expected in kinds]
            raise UsageError(f"--{option_name(name)} is {shortened(values[name])}; expected {' or '.join(words)}.")


def unknown_settings(kind: type, values: Mapping[str, Any]) -> str:
    """The first few names that the config has no field for, as text; empty if there are none."""
    fields = {field.name for field in dataclasses.fields(kind)}
    names = [shortened(name) for name in values if name not in fields]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def one_of(option: str, value, *, allowed: tuple[str, ...], or_file: bool = False) -> None:
    """Check that the value is one of those allowed or, with or_file, of the form FILE.py:NAME."""
    if value not in allowed and not (or_file and is_in_file(value)):
        words = f"{', '.join(allowed)}{', or FILE.py:NAME' if or_file else ''}"
        raise UsageError(f"--{option} is '{shortened(value)}'; expected one of: {words}.")


def is_in_file(value: str) -> bool:
    """Whether a value has the form FILE.py:NAME, such as my_losses.py:soft_margin."""
    return re.fullmatch(r"[^\0]*\.py:[^\W\d]\w*", value) is not None


def at_least(option: str, value, *, low, at_most) -> None:
    """Check that the value is `low` or more, and at most `at_most`."""
    if not value >= low:
        raise UsageError(f"--{option} is {shortened(value)}; expected {low} or more.")
    if not value <= at_most:
        raise UsageError(f"--{option} is {shortened(value)}; expected at most {at_most:,}.")


def above(option: str, value, *, low, at_most) -> None:
    """Check that the value is above `low`, and at most `at_most`."""
    if not low < value <= at_most:
        raise UsageError(f"--{option} is {shortened(value)}; expected a value above {low}, at most {at_most}.")


def within(option: str, value, *, low, high) -> None:
    """Check that the value is from `low` to `high`."""
    if not low <= value <= high:
        raise UsageError(
            f"--{option} is {shortened(value)}; expected a value from {_number_text(low)} to {_number_text(high)}."
        )


def below(option: str, value, *, high, at_least=None, above=None) -> None:
    """Check that the value is below `high`, and either `at_least` or more, or above `above`."""
    if not (value < high and (value >= at_least if above is None else value > above)):
        words = f"from {at_least} to below {high}" if above is None else f"between {above} and {high}"
        raise UsageError(f"--{option} is {shortened(value)}; expected a value {words}.")


def check_count(option: str, count: int, *, most: int, noun: str = "values") -> None:
    """Check that `count` is at most `most`."""
    if count > most:
        raise UsageError(f"--{option} has {count:,} {noun}; expected at most {most:,}.")


@cache
def _kinds(kind: type) -> dict[str, tuple]:
    """Setting -> its allowed types."""
    hints = get_type_hints(kind)
    return {name: get_args(hint) if get_origin(hint) is UnionType else (hint,) for name, hint in hints.items()}


def _fits(value, kind) -> bool:
    if get_origin(kind) is tuple:
        # A list, a tuple, or a numpy array.
        several = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
        return several and all(_fits(entry, get_args(kind)[0]) for entry in value)
    if kind is Any or get_origin(kind) is Mapping:
        return kind is Any or isinstance(value, Mapping)
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    return isinstance(value, _CLASSES.get(kind, kind))


def _number_text(bound) -> str:
    return f"{bound:,}" if isinstance(bound, int) else str(bound)


def shortened(value) -> str:
    """A value as messages show it: its first 60 characters, on one line."""
    text = str(value)
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def option_name(name: str) -> str:
    """A setting's name on the command line."""
    return name.replace("_", "-")
