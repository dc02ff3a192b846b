"""Pieces of Markdown, as lines. All text is escaped: it reads as it is, and none of it is markup."""

import re
from collections.abc import Iterable, Sequence

from clipret.machine.escaping import markdown_text, visible


def table(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """A table, with a blank line after it; the first row is its head. numbers: all columns but the first are."""
    head, *others = rows
    rules = ["---", *(["---:"] if numbers else ["---"]) * (len(head) - 1)]
    return [_row(map(markdown_text, head)), _row(rules), *(_row(map(markdown_text, row)) for row in others), ""]


def bullets(texts: Iterable[str]) -> list[str]:
    """A list, with a blank line after it."""
    return [*(f"- {markdown_text(text)}" for text in texts), ""]


def code(text: str, *, language: str) -> list[str]:
    """A block of code, with a blank line after it; control characters are escaped, and no line of it can end it."""
    lines = visible(text).strip("\n").splitlines()
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *lines, fence, ""]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
