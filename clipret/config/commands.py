"""Settings as JSON, and as the command line that gives them."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipret.config.settings import settings_of


def to_dict(config) -> dict:
    """The config as JSON-ready values: paths as strings, tuples as lists."""
    values = dataclasses.asdict(config)
    return {name: _json_ready(value) for name, value in values.items()}


def to_command(subcommand: str, config) -> str:
    """The command line that gives this config: every setting that is not the default, quoted for a shell."""
    return command_of(subcommand, type(config), settings=to_dict(config))


def command_of(subcommand: str, kind: type, *, settings: Mapping[str, Any]) -> str:
    """As to_command, of the settings of a config of that kind as to_dict returns them; others are options too."""
    words, rules = ["clipret", subcommand], settings_of(kind)
    defaults = {field.name: _json_ready(field.default) for field in dataclasses.fields(kind)}
    for name, value in settings.items():
        if name in defaults and value == defaults[name]:
            continue
        option = f"--{name.replace('_', '-')}"
        if name in rules and rules[name].positional:
            words += map(str, value) if isinstance(value, list) else [str(value)]
        elif isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        else:
            words += [option, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return shlex.join(words)


def _json_ready(value):
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
