"""Write the pages of the manual that are made from the code: docs/cli.md from the command line, docs/api.md from the
public names. `make docs` runs it; a test fails when a page is not what this would write.
"""

import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

import typer
from docstring_lists import with_lists

import clipret
from clipret.cli import app

DOCS = Path(__file__).resolve().parent.parent / "docs"
NOTE = "<!-- Written by scripts/docs_pages.py; `make docs` writes it again. -->"
COMPLETION = """## Shell completion

`clipret --install-completion` adds completion of commands and options to the shell that it is called from (bash, zsh,
fish or PowerShell). Open a new shell afterwards. `clipret --show-completion` prints the script instead, so that you can
put it where you like.
"""


def cli_page() -> str:
    """Return docs/cli.md: every command with its help, its examples and a table of its options."""
    root = typer.main.get_command(app)
    parts = [NOTE, "", "# Every command and option", "", "What `clipret COMMAND --help` shows, on one page.", ""]
    for name, command in root.commands.items():
        if not command.hidden:
            parts += _command(name, command)
    return "\n".join([*parts, COMPLETION])


def _command(name: str, command) -> Iterator[str]:
    text, *examples = command.help.split("\b\n")
    yield from (f"## clipret {name}", "", _escaped(text.strip()), "")
    for example in examples:
        # Not `console`: the commands of this page are those of --help, which has its own tests.
        yield from ("```text", example.strip(), "```", "")
    panels: dict[str, list] = {}
    for option in command.params:
        if not option.hidden:
            panels.setdefault(getattr(option, "rich_help_panel", None) or "Options", []).append(option)
    for panel, options in panels.items():
        yield from (f"**{panel}**", "", "| Option | What | Default |", "|---|---|---|")
        yield from map(_row, options)
        yield ""


def _row(option) -> str:
    names = "`, `".join([*option.opts, *option.secondary_opts])
    names = names if option.opts[0].startswith("-") else (option.metavar or option.name.upper())
    return f"| `{names}` | {_escaped(option.help or '')} | {_default(option)} |"


def _default(option) -> str:
    if option.required:
        return "required"
    if isinstance(option.show_default, str):
        return _escaped(option.show_default)
    value = option.default
    if value is None or value == "" or option.show_default is False:
        return ""
    if isinstance(value, bool):
        # Of --merge/--no-merge the one that holds; a plain flag is off.
        return f"`{option.opts[0] if value else option.secondary_opts[0]}`" if option.secondary_opts else "off"
    return f"`{value.as_posix() if isinstance(value, Path) else value}`"


def _escaped(text: str) -> str:
    """Return help as Markdown: what Markdown or a table's cell would take for markup is written out."""
    for character in "\\*_<>|[]":
        text = text.replace(character, f"\\{character}")
    return text


def api_page() -> str:
    """Return docs/api.md: the public names. mkdocstrings reads functions and classes; settings are written here, as
    part of their text is only put together when clipret.config is imported."""
    groups: dict[str, list[str]] = {"Functions": [], "Settings": [], "Files": [], "Errors": []}
    for name in clipret.__all__:
        # Of a function whose result shows itself in notebooks, the one that it calls is what has a source.
        thing = inspect.unwrap(getattr(clipret, name))
        place = f"::: {thing.__module__}.{thing.__name__}"
        if dataclasses.is_dataclass(thing) and name.endswith("Config"):
            groups["Settings"].append(_settings(thing))
        elif isinstance(thing, type):
            groups["Errors" if issubclass(thing, Exception) else "Files"].append(place)
        else:
            groups["Functions"].append(place)
    parts = [NOTE, "", "# API", "", "Everything that `from clipret import ...` offers. [From Python](python.md) shows"]
    parts += ["how it is used.", ""]
    for group, entries in groups.items():
        parts += [f"## {group}", "", *(line for entry in entries for line in (entry, ""))]
    return "\n".join(parts)


def _settings(config: type) -> str:
    defaults = (
        field.name if field.default is dataclasses.MISSING else f"{field.name}={_plain(field.default)}"
        for field in dataclasses.fields(config)
    )
    call = textwrap.fill(f"{config.__name__}({', '.join(defaults)})", 100, subsequent_indent="    ")
    text = with_lists(inspect.cleandoc(config.__doc__))
    return f"### {config.__name__}\n\n```text\n{call}\n```\n\n{text}"


def _plain(value) -> str:
    return repr(value.as_posix() if isinstance(value, Path) else value)


PAGES = {"cli.md": cli_page, "api.md": api_page}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write(), encoding="utf-8")
