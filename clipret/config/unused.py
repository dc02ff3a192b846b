"""Settings that make no difference beside the others of a config, by what their fields say (used_with)."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from clipret.config.checks import option_name
from clipret.config.settings import settings_of
from clipret.errors import UsageError


def require_use(config: Any, names: Iterable[str]) -> None:
    """Raise UsageError for the first of these settings, by name, that makes no difference beside the others."""
    for name in sorted(names):
        if reason := _why_unused(config, name):
            raise UsageError(f"{reason}.")


def unused_settings(config: Any) -> list[str]:
    """A sentence for each setting that is not at its default and makes no difference beside the config's others."""
    changed = [field.name for field in fields(config) if getattr(config, field.name) != field.default]
    return [reason for name in changed if (reason := _why_unused(config, name))]


def _why_unused(config: Any, name: str) -> str | None:
    rule = settings_of(type(config))[name]
    if rule.used_with is None:
        return None
    decider, values = rule.used_with
    option, actual = f"--{option_name(decider)}", getattr(config, decider)
    if actual in values:
        return None
    if values == (None,):
        return f"--{option_name(name)} makes no difference beside {option} {actual}; leave one of them out"
    return f"--{option_name(name)} is for {option} {' and '.join(values)}; the {decider} is {actual}"
