"""Sheets as tables of GitHub's Markdown."""

import re
from collections.abc import Iterable

from clipret.machine.escaping import markdown_text
from clipret.reporting.sheets import Cell, Sheet

_RULES = {"left": "---", "right": "---:"}


def to_markdown(sheets: tuple[Sheet, ...]) -> str:
    """The sheets as text: for each a title, a table, and a line a note."""
    lines = []
    for sheet in sheets:
        lines += [f"**{markdown_text(sheet.title)}**", ""] if sheet.title else []
        lines.append(_row(markdown_text(column.heading) for column in sheet.columns))
        lines.append(_row(_RULES[column.align] for column in sheet.columns))
        lines += [_row(map(_cell, row)) for row in sheet.rows]
        lines += ["", *(f"{_line(note)}  " for note in sheet.notes), ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(words: Iterable[str]) -> str:
    return f"| {' | '.join(words)} |"


def _cell(cell: Cell) -> str:
    text = "<br>".join(map(markdown_text, cell.text.split("\n")))
    text = f"**{text}**" if cell.emphasis and text else text
    return f"{text} ({markdown_text(cell.interval.strip('[]'))})" if cell.interval else text


def _line(text: str) -> str:
    """A text that stands alone in its line, where it could begin a list, a heading, a rule or code."""
    text = re.sub(r"^([-+=])", r"\\\1", markdown_text(text).strip())
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)
