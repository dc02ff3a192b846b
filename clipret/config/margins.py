"""Parsing of margins."""

import re
from dataclasses import dataclass

from clipret.config.checks import within
from clipret.errors import UsageError

MARGIN_FORMS = "a number from -1 to 1, START:END, auto, or auto:Q"
_AUTO_QUANTILE = 0.9


@dataclass(frozen=True)
class Margin:
    """A margin of cosine similarity over the course of a training.

    text        as the user wrote it: a number, or text
    start, end  margin at the first and the last step, linear in between; equal for a plain number
    quantile    the margin is this quantile of the batch's negative similarities; None: given by start and end
    """

    text: float | str
    start: float = 0.0
    end: float = 0.0
    quantile: float | None = None

    @classmethod
    def parse(cls, text: float | str) -> "Margin":
        """Parse a number, `START:END`, `auto` or `auto:Q`. Raises UsageError for anything else, or out of range."""
        if isinstance(text, str) and (match := re.fullmatch(r"auto(?::(.+))?", text)):
            quantile = _AUTO_QUANTILE if match[1] is None else _read(match[1], whole=text)
            within("margin auto:Q", quantile, low=0, high=1)
            return cls(text, quantile=quantile)
        words = text.split(":") if isinstance(text, str) else [text]
        if len(words) > 2:
            raise UsageError(f"--margin is '{text}'; expected {MARGIN_FORMS}.")
        ends = [_read(word, whole=text) for word in words]
        for end in ends:
            within("margin", end, low=-1, high=1)
        return cls(ends[0] if len(ends) == 1 else text, start=ends[0], end=ends[-1])

    def at(self, progress: float) -> float:
        """The margin when `progress`, from 0 to 1, of the steps are done."""
        return self.start + (self.end - self.start) * progress


def _read(word, *, whole) -> float:
    try:
        return float(word)
    except (TypeError, ValueError):
        raise UsageError(f"--margin is '{whole}'; expected {MARGIN_FORMS}.") from None
