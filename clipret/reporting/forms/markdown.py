"""Sheets as tables of GitHub's Markdown."""

import re
from collections.abc import Iterable

from clipret.machine.escaping import visible
from clipret.reporting.sheets import Cell, Sheet

_SIGNS = str.maketrans({sign: f"\\{sign}" for sign in "\\|*_<>`[$~&#"})
_RULES = {"left": "---", "right": "---:"}


def to_markdown(sheets: tuple[Sheet, ...]) -> str:
    """The sheets as text: for each a title, a table, and a line a note."""
    lines = []
    for sheet in sheets:
        lines += [f"**{_escaped(sheet.title)}**", ""] if sheet.title else []
        lines.append(_row(_escaped(column.heading) for column in sheet.columns))
        lines.append(_row(_RULES[column.align] for column in sheet.columns))
        lines += [_row(map(_cell, row)) for row in sheet.rows]
        lines += ["", *(f"{_line(note)}  " for note in sheet.notes), ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(words: Iterable[str]) -> str:
    return f"| {' | '.join(words)} |"


def _cell(cell: Cell) -> str:
    text = "<br>".join(map(_escaped, cell.text.split("\n")))
    text = f"**{text}**" if cell.emphasis and text else text
    return f"{text} ({_escaped(cell.interval.strip('[]'))})" if cell.interval else text


def _line(text: str) -> str:
    """A text that stands alone in its line, where it could begin a list, a heading, a rule or code."""
    text = re.sub(r"^([-+=])", r"\\\1", _escaped(text).strip())
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)


def _escaped(text: str) -> str:
    return visible(text.replace("\n", " ")).translate(_SIGNS)
