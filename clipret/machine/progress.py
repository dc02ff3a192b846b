"""How stages say how far they are. They report; the command line draws."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One report of a running stage.

    phase    what is being done, such as "images"
    done     units finished, those of an earlier, interrupted run included
    total    units in all
    detail   what is worth showing beside the bar: name -> figure, or text
    unit     of done and total: bytes, or nothing for what the phase counts
    """

    phase: str
    done: int
    total: int
    detail: dict = field(default_factory=dict)
    unit: str = ""


ProgressCallback = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The callback of somebody who does not want to know."""
