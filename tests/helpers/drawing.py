"""Sheets as a terminal shows them."""

import io

from rich.console import Console

from clipret.reporting import FORMS


def drawn(sheets, *, width=100):
    """The text of the sheets in a terminal of that width."""
    console = Console(file=io.StringIO(), width=width)
    console.print(FORMS["terminal"](tuple(sheets)))
    return console.file.getvalue()


def words(text):
    """The lines of a text, each with single spaces."""
    return [" ".join(line.split()) for line in text.splitlines()]
