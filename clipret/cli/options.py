"""Options of commands: those of a config's settings, made from what is said of each, and those that commands share."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace
from types import MappingProxyType, NoneType
from typing import Annotated, Any, get_args, get_origin

import typer

from clipret.config.checks import option_name
from clipret.config.recipes import RECIPE_HELP
from clipret.config.settings import Setting, settings_of, types_of
from clipret.errors import UsageError

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks: the result and errors only.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]

Recipe = Annotated[str | None, typer.Option(help=RECIPE_HELP, show_default="none")]


def from_settings(
    kind: type, *, optional: tuple[str, ...] = (), helps: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Callable], Callable]:
    """Give a command an option, or an argument, for every setting of a config class.

    optional  required settings that the command can do without, and looks after by itself
    helps     setting -> its help, where that follows from the table of a room that the config does not know

    The command is a function of (values, ...): the settings by name, as the config takes them, and its own options.
    """

    def decorate(function: Callable) -> Callable:
        own = list(inspect.signature(function).parameters.values())[1:]
        rules = {name: replace(rule, help=helps.get(name, rule.help)) for name, rule in settings_of(kind).items()}
        parts = [_parameter(kind, name, rule, required=name not in optional) for name, rule in rules.items()]

        def command(**options):
            values = {name: _value(kind, name, rule, options.pop(name)) for name, rule in rules.items()}
            return function(values, **options)

        return _signed(command, like=function, parameters=[*parts, *own])

    return decorate


def sweepable(kind: type) -> Callable[[Callable], Callable]:
    """Give a command, after what it has, an option of several values for every setting that a sweep may vary.

    The command takes them as the keyword `axes`: text, or True, by name; those that are not on the command line are not
    among them.
    """
    rules = {name: rule for name, rule in settings_of(kind).items() if rule.swept}

    def decorate(function: Callable) -> Callable:
        own = [part for part in inspect.signature(function).parameters.values() if part.name != "axes"]
        added = [_axis(kind, name, rule) for name, rule in rules.items()]

        def command(**options):
            axes = {name: value for name in rules if (value := options.pop(name)) is not None}
            return function(axes=axes, **options)

        return _signed(command, like=function, parameters=[*own, *added])

    return decorate


def on_command_line(context: typer.Context) -> set[str]:
    """Names of a command's parameters that were given on the command line."""
    return {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}


def refuse_beside_resume(context: typer.Context, what: str) -> None:
    """Raise UsageError when, beside --resume, there are options that what is gone on with has already."""
    names = on_command_line(context) - {"resume", "quiet", "as_json"}
    words = sorted(option for part in context.command.params if part.name in names for option in part.opts[:1])
    if words:
        raise UsageError(f"--resume goes on with the settings that the {what} has; leave out {', '.join(words)}.")


def _signed(command: Callable, *, like: Callable, parameters: list[inspect.Parameter]) -> Callable:
    """The command with the name and the help of a function, and these parameters for typer to read."""
    parameters = [part.replace(kind=inspect.Parameter.KEYWORD_ONLY) for part in parameters]
    command.__name__, command.__doc__, command.__module__ = like.__name__, like.__doc__, like.__module__
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {part.name: part.annotation for part in parameters}
    return command


def _parameter(kind: type, name: str, rule: Setting, *, required: bool) -> inspect.Parameter:
    hint, default = _shown_type(kind, name, rule), _default(kind, name)
    more = {"help": rule.help, "metavar": rule.metavar}
    if rule.positional:
        return _keyword(name, Annotated[hint, typer.Argument(show_default=False, **more)], default)
    if default is MISSING and not required:
        hint, default = hint | None, None
    else:
        default = _as_text(kind, name, rule)
        hint = hint | None if default is None else hint
    more |= {
        "rich_help_panel": rule.panel,
        "show_default": rule.shown or (default not in (None, "") and default is not False),
    }
    words = rule.option or ((f"--{option_name(name)}",) if default is False else ())
    return _keyword(name, Annotated[hint, typer.Option(*words, **more)], default)


def _axis(kind: type, name: str, rule: Setting) -> inspect.Parameter:
    kinds = types_of(kind, name)
    none = "or none" if rule.shown in (None, "none") else f"none: {rule.shown}"
    words = "true, false" if bool in kinds else none if NoneType in kinds else ""
    more = {"help": f"{rule.help} ({words})" if words else rule.help}
    more |= {"show_default": False, "rich_help_panel": rule.panel or "Sweep"}
    if _default(kind, name) is False:
        more["help"] = rule.help
        option = typer.Option(f"--{option_name(name)}", **more)
        return _keyword(name, Annotated[bool | None, option], None)
    return _keyword(name, Annotated[str | None, typer.Option(metavar="V,V,...", **more)], None)


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _default(kind: type, name: str) -> Any:
    return next(field.default for field in fields(kind) if field.name == name)


def _shown_type(kind: type, name: str, rule: Setting) -> Any:
    """The type that typer reads: text for what is parsed here, a list for arguments of any number."""
    kinds = types_of(kind, name)
    entry = next((get_args(part)[0] for part in kinds if get_origin(part) is tuple), None)
    if entry is not None:
        return list[entry] if rule.positional else str
    plain = str if rule.auto or str in kinds else next(part for part in kinds if part is not NoneType)
    return plain | None if NoneType in kinds and not rule.auto else plain


def _as_text(kind: type, name: str, rule: Setting) -> Any:
    """A setting's default as its option has it."""
    default = _default(kind, name)
    if rule.auto and default is None:
        return rule.auto
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or None
    return str(default) if isinstance(default, float) and str in types_of(kind, name) else default


def _value(kind: type, name: str, rule: Setting, text: Any) -> Any:
    """What the config takes, from what the command line gave."""
    default = _default(kind, name)
    if default is not MISSING and text == _as_text(kind, name, rule):
        return default
    if rule.auto:
        return _whole_number(name, text, auto=rule.auto)
    if isinstance(text, list):
        return tuple(text)
    of_several = any(get_origin(part) is tuple for part in types_of(kind, name))
    return (rule.parse or words)(text) if of_several and text is not None else text


def words(text: str) -> tuple[str, ...]:
    """What is between the commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _whole_number(name: str, text: str, *, auto: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"--{option_name(name)} is '{text}'; expected a whole number, or {auto}.")
    return int(text)
