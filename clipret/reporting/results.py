"""What the functions of the package return: dicts that show themselves in a notebook as the tables of the terminal."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from clipret.reporting import SECTIONS
from clipret.reporting.forms.html import html_table

# Public function -> the section of its result.
SHOWN = {
    "check_dataset": "check",
    "compare": "compare",
    "evaluate": "evaluate",
    "find_failures": "failures",
    "reproduce": "reproduce",
    "resume": "train",
    "sweep": "sweep",
    "train": "train",
    "verify": "verify",
}


class Result(dict):
    """A dict that a notebook shows as tables. It equals the dict that it was made of, and stays what it is in pickles.

    section, options  as in SECTIONS
    """

    def __init__(self, content: dict, *, section: str, options: dict[str, Any]):
        super().__init__(content)
        self._section, self._options = section, options

    def _repr_html_(self) -> str:
        """The tables. Texts in them are escaped."""
        return "".join(map(html_table, SECTIONS[self._section](self, **self._options)))


def showing(function: Callable[..., dict], *, name: str) -> Callable[..., Result]:
    """A function of SHOWN, but that its dict is a Result. It can be sent to other processes under its public name."""
    section = SHOWN[name]

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Result:
        content = function(*arguments, **options)
        config = arguments[0] if arguments else options.get("config")
        # Of the metrics only those that were asked for are shown.
        return Result(content, section=section, options={"names": config.columns} if section == "evaluate" else {})

    call.__module__, call.__qualname__ = "clipret", name
    return call
