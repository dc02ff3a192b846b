"""What a drawing shows, whatever draws it: a page in SVG, or matplotlib for a paper."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A line of a drawing.

    x, y       as long as each other
    low, high  a band around it; None: there is none
    kind       number of its colour, from 0
    stepped    drawn in steps: of histograms
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    kind: int = 0
    stepped: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis.

    form  how a number at a tick is written, as by format()
    log   whether it is logarithmic
    low, high  its ends; None: those of the data
    """

    name: str
    form: str = "g"
    log: bool = False
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Chart:
    """A drawing: lines over each other, or circles whose areas are as their counts, with the diagonal.

    name     of a file, without an ending
    title    what it shows, for who does not see it
    caption  below it; "": the title
    lines    of a drawing of lines
    marks    (x, name) of upright lines
    cells    (x, y, count) of circles
    """

    name: str
    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    marks: Sequence[tuple[float, str]] = ()
    cells: Sequence[Sequence[float]] = ()
    caption: str = ""


# Of circles: names of their colours.
MOVES = (("same", 0), ("better", 1), ("worse", 2))


def move_of(cell: Sequence[float]) -> int:
    """The number of the colour of a circle: whether y, a rank, is the same as x, better or worse."""
    return 0 if cell[1] == cell[0] else 1 if cell[1] < cell[0] else 2
