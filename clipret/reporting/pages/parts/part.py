"""What a part of a report has: the heading, and a function from what was found of a run to its markup."""

from collections.abc import Callable
from dataclasses import dataclass

from clipret.reporting.pages.pictures import Pictures


@dataclass(frozen=True)
class Part:
    """A part of a report.

    title   its heading
    render  (what findings.stage found of a run, its pictures) -> HTML; "": there is nothing to say
    """

    title: str
    render: Callable[[dict, Pictures], str]
