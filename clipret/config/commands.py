"""Settings as JSON, and as the command line that gives them."""

import dataclasses
import shlex
from pathlib import Path

from clipret.config.settings import settings_of


def to_dict(config) -> dict:
    """The config as JSON-ready values: paths as strings, tuples as lists."""
    values = dataclasses.asdict(config)
    return {name: _json_ready(value) for name, value in values.items()}


def to_command(subcommand: str, config) -> str:
    """The command line that gives this config: every setting that is not the default, quoted for a shell."""
    words, rules = ["clipret", subcommand], settings_of(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        option = field.name.replace("_", "-")
        if field.default is not dataclasses.MISSING and value == field.default:
            continue
        if field.name in rules and rules[field.name].positional:
            words += map(str, value) if isinstance(value, tuple) else [str(value)]
            continue
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{option}")
        else:
            words += [f"--{option}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


def _json_ready(value):
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
