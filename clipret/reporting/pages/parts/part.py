"""What a part of a report has: the heading, and a function from what was found of a run to its markup."""

from collections.abc import Callable
from dataclasses import dataclass

from clipret.reporting.pages.chart import Chart
from clipret.reporting.pages.charts import draw
from clipret.reporting.pages.markup import element, figure
from clipret.reporting.pages.pictures import Pictures


@dataclass(frozen=True)
class Part:
    """A part of a report.

    title   its heading
    render  (what findings.stage found of a run, its pictures) -> HTML; "": there is nothing to say
    charts  what findings.stage found of a run -> its drawings, for papers
    """

    title: str
    render: Callable[[dict, Pictures], str]
    charts: Callable[[dict], list[Chart]] = lambda found: []


def drawn(charts: list[Chart]) -> str:
    """Drawings beside each other, each with its caption."""
    figures = [figure(draw(chart), chart.caption or chart.title) for chart in charts]
    return element("div", *figures, kind="charts") if figures else ""
